//! Which gateway or log a command is for: one rule for all commands (docs/CLI.md, "Which gateway").

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::fault::CliFault;

/// The config's name in a data folder.
const CONFIG: &str = "token-shield.toml";
/// The path of a packaged gateway's config.
const SYSTEM: &str = "/etc/token-shield/token-shield.toml";
/// The environment variable with the data folder.
const DATA: &str = "TOKEN_SHIELD_DATA";

/// Which gateway a command is for. Without a flag: TOKEN_SHIELD_CONFIG or TOKEN_SHIELD_DATA.
/// Without these: ./token-shield.toml, ./data or /etc/token-shield/token-shield.toml, if exactly
/// one exists.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct GatewayArgs {
    /// The gateway's data folder. It is enough if the gateway runs, or if DIR/token-shield.toml is
    /// its config.
    #[arg(long, value_name = "DIR", help_heading = "Which gateway")]
    pub(super) data: Option<PathBuf>,
    /// The gateway's config file.
    #[arg(long, value_name = "FILE", help_heading = "Which gateway")]
    pub(super) config: Option<PathBuf>,
    /// Print results and errors as JSON, one object a line.
    #[arg(long)]
    pub(super) json: bool,
}

/// Which log a command is for: a gateway's, or one in a folder.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct LogArgs {
    /// A log's folder, such as a copy: the folder that contains e000001.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data", "config"], help_heading = "Which \
        log")]
    dir: Option<PathBuf>,
    /// A gateway's data folder. Its log is DIR/audit.
    #[arg(long, value_name = "DIR", help_heading = "Which log")]
    data: Option<PathBuf>,
    /// A gateway's config file.
    #[arg(long, value_name = "FILE", help_heading = "Which log")]
    config: Option<PathBuf>,
    /// Print results and errors as JSON, one object a line.
    #[arg(long)]
    pub(super) json: bool,
}

impl LogArgs {
    /// The gateway with the log. `None` if a log's folder is named.
    #[cfg(feature = "gateway")]
    pub(super) fn place(&self) -> Option<GatewayArgs> {
        if self.dir.is_some() {
            return None;
        }
        let (data, config) = (self.data.clone(), self.config.clone());
        Some(GatewayArgs { data, config, json: self.json })
    }

    /// The log's folder. `given` is a folder instead of `--dir`.
    ///
    /// # Errors
    /// If the folder is not clear.
    pub(super) fn dir(&self, given: Option<PathBuf>) -> Result<PathBuf, CliFault> {
        match (&self.dir, given) {
            (Some(_), Some(_)) => Err(CliFault::usage("a log's folder is named twice")),
            (Some(dir), None) => Ok(dir.clone()),
            (None, Some(_)) if self.data.is_some() || self.config.is_some() => {
                Err(CliFault::usage("both a log's folder and a gateway are named: name only one"))
            }
            (None, Some(given)) => Ok(given),
            (None, None) => {
                let place = GatewayArgs {
                    data: self.data.clone(),
                    config: self.config.clone(),
                    json: false,
                };
                Ok(place.find()?.data_folder()?.join("audit"))
            }
        }
    }
}

/// The gateway for which a command is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GatewayTarget {
    /// Its config. The file may be missing if a data folder was named.
    pub(super) config: PathBuf,
    /// Its data folder, if that was named.
    pub(super) data: Option<PathBuf>,
    /// Named by a flag or by the environment. Otherwise it was found.
    pub(super) named: bool,
}

impl GatewayTarget {
    /// A gateway with this config.
    fn of_config(config: PathBuf, named: bool) -> Self {
        Self { config, data: None, named }
    }

    /// A gateway with this data folder. The config is in it.
    fn of_data(data: PathBuf, named: bool) -> Self {
        Self { config: data.join(CONFIG), data: Some(data), named }
    }

    /// The data folder: the named one, or the one in the config.
    ///
    /// # Errors
    /// If the config cannot be read.
    pub(super) fn data_folder(&self) -> Result<PathBuf, CliFault> {
        match (&self.data, Addresses::read(&self.config)) {
            (Some(data), _) => Ok(data.clone()),
            (None, Ok(addresses)) => Ok(addresses.data),
            (None, Err(why)) => Err(why),
        }
    }

    /// The path that distinguishes this gateway from others: its data folder, or its config if that
    /// cannot be read.
    fn distinct_path(&self) -> PathBuf {
        match self.data_folder() {
            Ok(folder) => folder,
            Err(_) => self.config.clone(),
        }
    }
}

/// The addresses in a config. The rest of the config is not checked, so that agents can also be
/// stopped while the config has faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) data: PathBuf,
    #[cfg_attr(not(feature = "gateway"), allow(dead_code, reason = "there is no gateway to ask"))]
    pub(super) admin: PathBuf,
    #[cfg_attr(
        not(feature = "gateway"),
        allow(dead_code, reason = "there is no gateway to be named")
    )]
    pub(super) name: Option<String>,
}

impl Addresses {
    /// Reads the addresses.
    ///
    /// # Errors
    /// If the file cannot be read or is not TOML.
    pub(super) fn read(path: &Path) -> Result<Self, CliFault> {
        let read =
            fs::read_to_string(path).map_err(|error| no_addresses(path, &error.to_string()))?;
        let table: toml::Table =
            read.parse().map_err(|error: toml::de::Error| no_addresses(path, error.message()))?;
        let base = folder_of(path);
        let data = base.join(text(&table, "data").unwrap_or("data"));
        let admin = match admin_socket(&table) {
            Some(admin) => base.join(admin),
            None => data.join("admin.sock"),
        };
        let name = text(&table, "name").map(str::to_owned);
        Ok(Self { admin, data, name })
    }
}

/// The folder that a file is in. Empty for a name without a folder.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// The text at a key of a config.
fn text<'t>(table: &'t toml::Table, key: &str) -> Option<&'t str> {
    table.get(key)?.as_str()
}

/// The path of the admin socket in a config, relative to the config's folder.
fn admin_socket(table: &toml::Table) -> Option<&str> {
    table.get("listen")?.get("admin")?.as_str()?.strip_prefix("unix:")
}

/// The error about a config whose addresses cannot be read.
fn no_addresses(path: &Path, why: &str) -> CliFault {
    let hint = "name the gateway's config with --config FILE, or its data folder with --data DIR";
    CliFault::failed("config", format!("{}: {why}; {hint}", path.display()))
}

impl GatewayArgs {
    /// The gateway that the command is for.
    ///
    /// # Errors
    /// If none is named or found, several are found, or the found one is not trusted.
    pub(super) fn find(&self) -> Result<GatewayTarget, CliFault> {
        // Options come before the environment, and the environment before a search.
        if let Some(target) = named(self.config.clone(), self.data.clone())? {
            return Ok(target);
        }
        if let Some(target) = named(variable("TOKEN_SHIELD_CONFIG"), variable(DATA))? {
            return Ok(target);
        }
        found(Path::new(""), Path::new(SYSTEM), rustix::process::geteuid().as_raw())
    }
}

/// A path in the environment. An empty variable counts as not set.
fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name)?;
    if value.is_empty() { None } else { Some(PathBuf::from(value)) }
}

/// The data folder of `dev`, which needs no config: the named one, TOKEN_SHIELD_DATA or ./data. It
/// searches for no config, so that it cannot use one that was not named.
///
/// # Errors
/// If ./data belongs to another user, or is in a folder that everybody may write.
#[cfg(feature = "gateway")]
pub(super) fn own_folder(given: Option<PathBuf>) -> Result<PathBuf, CliFault> {
    if let Some(folder) = given.or_else(|| variable(DATA)) {
        return Ok(folder);
    }
    let folder = PathBuf::from("./data");
    if fs::symlink_metadata(&folder).is_ok() {
        trusted(Path::new("data"), rustix::process::geteuid().as_raw())?;
    } else {
        let whole = fs::canonicalize(".")
            .map_err(|error| CliFault::failed("not-trusted", format!("./: {error}")))?;
        closed(Path::new("data"), &whole.join("data"))?;
    }
    Ok(folder)
}

/// The gateway with this config, this data folder, or both. `None` if neither is given.
///
/// # Errors
/// If the config names another data folder.
fn named(
    config: Option<PathBuf>,
    data: Option<PathBuf>,
) -> Result<Option<GatewayTarget>, CliFault> {
    match (config, data) {
        (None, None) => Ok(None),
        (Some(config), None) => Ok(Some(GatewayTarget::of_config(config, true))),
        (None, Some(data)) => named(Some(data.join(CONFIG)), Some(data)),
        (Some(config), Some(data)) => {
            match Addresses::read(&config) {
                Ok(says) if !same(&says.data, &data) => Err(CliFault::usage(format!(
                    "{} has its data in {}, not in {}: name one of them",
                    config.display(),
                    says.data.display(),
                    data.display()
                ))),
                // A config that cannot be read does not contradict the folder.
                Ok(_) | Err(_) => Ok(Some(GatewayTarget { config, data: Some(data), named: true })),
            }
        }
    }
}

/// Whether two paths lead to the same file.
fn same(left: &Path, right: &Path) -> bool {
    if left == right {
        return true;
    }
    match (fs::canonicalize(left), fs::canonicalize(right)) {
        (Ok(left), Ok(right)) => left == right,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// The gateway that is found in the folder `here` or at the system's path. `uid` is the caller. It
/// must be the only one.
fn found(here: &Path, system: &Path, uid: u32) -> Result<GatewayTarget, CliFault> {
    let (own, data) = (here.join(CONFIG), here.join("data"));
    let mut candidates: Vec<(PathBuf, GatewayTarget)> = Vec::new();
    for (path, target) in [
        (own.clone(), GatewayTarget::of_config(own, false)),
        (data.clone(), GatewayTarget::of_data(data, false)),
        (system.to_owned(), GatewayTarget::of_config(system.to_owned(), false)),
    ] {
        // Any folder may have the name data. It counts if it contains a gateway's files.
        let is_there = if target.data.is_some() {
            [CONFIG, "audit", "admin.sock"]
                .iter()
                .any(|name| fs::symlink_metadata(path.join(name)).is_ok())
        } else {
            fs::symlink_metadata(&path).is_ok()
        };
        // A pipe or a device would stop the command, or fill its memory. Only a named config may be
        // one, as in `--config <(…)`.
        if fs::metadata(&target.config).is_ok_and(|found| !found.is_file()) {
            return Err(no_addresses(&target.config, "is not a file"));
        }
        let folder = target.distinct_path();
        let known = candidates.iter().any(|(_, other)| same(&other.distinct_path(), &folder));
        if is_there && !known {
            candidates.push((path, target));
        }
    }
    match candidates.as_slice() {
        [] => Err(CliFault::failed(
            "no-gateway",
            format!(
                "no gateway is named, and none is found: ./{CONFIG}, ./data and {} do not exist; \
                 name one with --config FILE or --data DIR",
                system.display()
            ),
        )),
        // A config that another user can write could make root act on any folder.
        [(path, target)] => trusted(path, uid).map(|()| target.clone()),
        several => {
            let paths: Vec<String> = several.iter().map(|(path, _)| shown(path)).collect();
            Err(CliFault::usage(format!(
                "several gateways are found: {}; name one with --config FILE or --data DIR",
                paths.join(", ")
            )))
        }
    }
}

/// A path for messages.
fn shown(path: &Path) -> String {
    if path.is_absolute() { path.display().to_string() } else { format!("./{}", path.display()) }
}

/// The error for a gateway that was found and is not trusted.
fn not_trusted(path: &Path, why: &str) -> CliFault {
    let why = format!(
        "{} is found, not named, and {why}; name it with --config FILE or --data DIR",
        shown(path)
    );
    CliFault::failed("not-trusted", why)
}

/// Checks that no other user can write what was found and not named.
fn trusted(path: &Path, uid: u32) -> Result<(), CliFault> {
    // Both the link and its target: the owner of either can change what is read.
    for found in [fs::symlink_metadata(path), fs::metadata(path)] {
        let owner = found.map_err(|error| not_checked(path, &error))?.uid();
        if owner != 0 && owner != uid {
            return Err(not_trusted(path, &format!("belongs to uid {owner}")));
        }
    }
    closed(path, &fs::canonicalize(path).map_err(|error| not_checked(path, &error))?)
}

/// The error about a path whose owner or location cannot be read.
fn not_checked(path: &Path, error: &std::io::Error) -> CliFault {
    CliFault::failed("not-trusted", format!("{}: {error}", path.display()))
}

/// Checks that no folder above `whole`, the absolute path of `path`, is writable by everybody.
fn closed(path: &Path, whole: &Path) -> Result<(), CliFault> {
    for (distance, folder) in whole.ancestors().enumerate() {
        let Ok(found) = fs::metadata(folder) else { continue };
        // In a folder with the sticky bit, such as /tmp, others cannot replace what is in folders
        // below it. But they could have put this file there.
        let sticky = distance > 1 && found.mode() & 0o1000 != 0;
        if found.is_dir() && found.mode() & 0o002 != 0 && !sticky {
            return Err(not_trusted(
                path,
                &format!("is in {}, which everybody may write", folder.display()),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("folder"))
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("folder")).expect("folder");
            fs::write(path, text).expect("file");
        }

        fn found(&self, uid: u32) -> Result<GatewayTarget, CliFault> {
            found(self.0.path(), &self.0.path().join("etc/token-shield.toml"), uid)
        }
    }

    #[test]
    fn one_candidate_is_taken_and_none_or_several_are_errors() {
        let folder = Folder::new();
        assert_eq!(folder.found(own()).expect_err("none").exit, 1);
        folder.put("data/notes.txt", "no gateway's folder");
        assert_eq!(folder.found(own()).expect_err("none").exit, 1);
        folder.put("data/token-shield.toml", "data = \".\"\n");
        let found = folder.found(own()).expect("one");
        assert_eq!((found.data, found.named), (Some(folder.0.path().join("data")), false));
        folder.put("etc/token-shield.toml", "data = \"/var/lib/other\"\n");
        let several = folder.found(own()).expect_err("two");
        assert_eq!(several.exit, 2);
        assert!(
            several.message.contains("etc/token-shield.toml") && several.message.contains("/data"),
            "{several}"
        );
    }

    #[test]
    fn two_ways_to_one_data_folder_are_one_candidate() {
        let folder = Folder::new();
        folder.put("token-shield.toml", "data = \"data\"\n");
        folder.put("data/audit/x", "");
        assert_eq!(
            folder.found(own()).expect("one").config,
            folder.0.path().join("token-shield.toml")
        );
    }

    #[test]
    fn what_is_found_and_is_no_file_is_not_read() {
        let folder = Folder::new();
        let pipe = folder.0.path().join("token-shield.toml");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        let refused = folder.found(own()).expect_err("a pipe");
        assert!(refused.message.contains("is not a file"), "{refused}");
    }

    #[test]
    fn what_others_may_have_put_there_is_refused() {
        let folder = Folder::new();
        folder.put("token-shield.toml", "data = \"data\"\n");
        // A file of root's is trusted for every caller.
        let caller = if own() == 0 { 0 } else { own() + 1 };
        if own() == 0 {
            std::os::unix::fs::chown(folder.0.path().join("token-shield.toml"), Some(12_345), None)
                .expect("chown");
        }
        assert_eq!(folder.found(caller).expect_err("another's").code, "not-trusted");
        fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o1777)).expect("mode");
        assert_eq!(folder.found(own()).expect_err("world-writable").code, "not-trusted");
    }

    #[test]
    fn a_config_with_faults_still_says_where_its_gateway_is() {
        let folder = Folder::new();
        folder.put("x.toml", "data = \"d\"\nnonsense = 1\n[listen]\nadmin = \"unix:s.sock\"\n");
        let read = Addresses::read(&folder.0.path().join("x.toml")).expect("addresses");
        assert_eq!(
            (read.data, read.admin),
            (folder.0.path().join("d"), folder.0.path().join("s.sock"))
        );
    }
}
