//! Which gateway, or which log, a command speaks of: one rule for all of them (docs/CLI.md, "Which gateway").

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::fault::Fault;

/// The config's name in a data folder.
const CONFIG: &str = "token-shield.toml";
/// Where a packaged gateway has its config.
const SYSTEM: &str = "/etc/token-shield/token-shield.toml";
/// The environment's word for the data folder.
const DATA: &str = "TOKEN_SHIELD_DATA";

/// Which gateway is meant. Without a flag: TOKEN_SHIELD_CONFIG or TOKEN_SHIELD_DATA, else ./token-shield.toml, ./data or
/// /etc/token-shield/token-shield.toml, where exactly one of these is there.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Place {
    /// The gateway's data folder; enough by itself where the gateway runs, or where DIR/token-shield.toml is its config.
    #[arg(long, value_name = "DIR", help_heading = "Which gateway")]
    pub(super) data: Option<PathBuf>,
    /// The gateway's config file.
    #[arg(long, value_name = "FILE", help_heading = "Which gateway")]
    pub(super) config: Option<PathBuf>,
    /// Print results and errors as JSON, an object a line.
    #[arg(long)]
    pub(super) json: bool,
}

/// Which log is meant: that of a gateway, or a bare folder.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct LogPlace {
    /// A log's folder, such as a copy: the folder that holds e000001.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data", "config"], help_heading = "Which log")]
    dir: Option<PathBuf>,
    /// A gateway's data folder; its log is DIR/audit.
    #[arg(long, value_name = "DIR", help_heading = "Which log")]
    data: Option<PathBuf>,
    /// A gateway's config file.
    #[arg(long, value_name = "FILE", help_heading = "Which log")]
    config: Option<PathBuf>,
    /// Print results and errors as JSON, an object a line.
    #[arg(long)]
    pub(super) json: bool,
}

impl LogPlace {
    /// The gateway whose log is meant, where no log's folder is named by itself.
    #[cfg(feature = "gateway")]
    pub(super) fn place(&self) -> Option<Place> {
        let place = Place { data: self.data.clone(), config: self.config.clone(), json: self.json };
        self.dir.is_none().then_some(place)
    }

    /// The log's folder. `given` is a folder in the place of `--dir`.
    ///
    /// # Errors
    /// When it is not clear which one is meant.
    pub(super) fn dir(&self, given: Option<PathBuf>) -> Result<PathBuf, Fault> {
        match (&self.dir, given) {
            (Some(_), Some(_)) => Err(Fault::usage("a log's folder is named twice")),
            (Some(dir), None) => Ok(dir.clone()),
            (None, Some(_)) if self.data.is_some() || self.config.is_some() => {
                Err(Fault::usage("a log's folder is named, and a gateway too: name one of them"))
            }
            (None, Some(given)) => Ok(given),
            (None, None) => {
                let place = Place { data: self.data.clone(), config: self.config.clone(), json: false };
                Ok(place.find()?.data_folder()?.join("audit"))
            }
        }
    }
}

/// A gateway that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its config; not there where a data folder without one was named.
    pub(super) config: PathBuf,
    /// Its data folder, where that was named.
    pub(super) data: Option<PathBuf>,
    /// Named by a flag or by the environment; else it was found.
    pub(super) named: bool,
}

impl Target {
    fn of_config(config: PathBuf, named: bool) -> Self {
        Self { config, data: None, named }
    }

    fn of_data(data: PathBuf, named: bool) -> Self {
        Self { config: data.join(CONFIG), data: Some(data), named }
    }

    /// The data folder: as named, else as the config says.
    ///
    /// # Errors
    /// When the config does not say so.
    pub(super) fn data_folder(&self) -> Result<PathBuf, Fault> {
        match (&self.data, Addresses::read(&self.config)) {
            (Some(data), _) => Ok(data.clone()),
            (None, Ok(addresses)) => Ok(addresses.data),
            (None, Err(why)) => Err(why),
        }
    }
}

/// What a config says of where its gateway is: read without judging the rest, so that a config with faults stops no brake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) data: PathBuf,
    #[cfg_attr(not(feature = "gateway"), allow(dead_code, reason = "there is no gateway to ask"))]
    pub(super) admin: PathBuf,
    #[cfg_attr(not(feature = "gateway"), allow(dead_code, reason = "there is no gateway to be named"))]
    pub(super) name: Option<String>,
}

impl Addresses {
    /// # Errors
    /// When the file cannot be read, or is no TOML.
    pub(super) fn read(path: &Path) -> Result<Self, Fault> {
        let fault = |why: String| {
            let hint = "name the gateway's config with --config FILE, or its data folder with --data DIR";
            Fault::failed("config", format!("{}: {why}; {hint}", path.display()))
        };
        let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| fault(error.message().to_owned()))?;
        let base = path.parent().unwrap_or(Path::new("."));
        let data = base.join(table.get("data").and_then(toml::Value::as_str).unwrap_or("data"));
        let admin = table.get("listen").and_then(|listen| listen.get("admin")).and_then(toml::Value::as_str);
        let admin = admin.and_then(|admin| admin.strip_prefix("unix:")).map(|path| base.join(path));
        let name = table.get("name").and_then(toml::Value::as_str).map(str::to_owned);
        Ok(Self { admin: admin.unwrap_or_else(|| data.join("admin.sock")), data, name })
    }
}

impl Place {
    /// Which gateway is meant.
    ///
    /// # Errors
    /// When none is named or found, several are found, or what is found is not to be trusted.
    pub(super) fn find(&self) -> Result<Target, Fault> {
        if let Some(target) = named(self.config.clone(), self.data.clone())? {
            return Ok(target);
        }
        if let Some(target) = named(variable("TOKEN_SHIELD_CONFIG"), variable(DATA))? {
            return Ok(target);
        }
        found(Path::new(""), Path::new(SYSTEM), rustix::process::geteuid().as_raw())
    }
}

/// A path in the environment; an empty one is none.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The data folder of a gateway on embedded defaults, which needs no config: the one that is named, else TOKEN_SHIELD_DATA, else
/// ./data. No config is looked for, so that none is used that nobody named.
///
/// # Errors
/// When ./data belongs to another user, or lies in a folder that everybody may write.
#[cfg(feature = "gateway")]
pub(super) fn own_folder(given: Option<PathBuf>) -> Result<PathBuf, Fault> {
    if let Some(folder) = given.or_else(|| variable(DATA)) {
        return Ok(folder);
    }
    let folder = PathBuf::from("./data");
    if fs::symlink_metadata(&folder).is_ok() {
        trusted(Path::new("data"), rustix::process::geteuid().as_raw())?;
    } else {
        let whole = fs::canonicalize(".").map_err(|error| Fault::failed("not-trusted", format!("./: {error}")))?;
        closed(Path::new("data"), &whole.join("data"))?;
    }
    Ok(folder)
}

fn named(config: Option<PathBuf>, data: Option<PathBuf>) -> Result<Option<Target>, Fault> {
    match (config, data) {
        (None, None) => Ok(None),
        (Some(config), None) => Ok(Some(Target::of_config(config, true))),
        (None, Some(data)) => named(Some(data.join(CONFIG)), Some(data)),
        (Some(config), Some(data)) => {
            // A config that cannot be read says nothing against the folder.
            let other = Addresses::read(&config).ok().filter(|says| !same(&says.data, &data));
            match other {
                None => Ok(Some(Target { config, data: Some(data), named: true })),
                Some(says) => Err(Fault::usage(format!(
                    "{} has its data in {}, not in {}: name one of them",
                    config.display(),
                    says.data.display(),
                    data.display()
                ))),
            }
        }
    }
}

fn same(left: &Path, right: &Path) -> bool {
    left == right || fs::canonicalize(left).ok().is_some_and(|left| fs::canonicalize(right).is_ok_and(|right| left == right))
}

/// The one gateway that is found from the folder `here`, or in the system's place; `uid` is the caller.
fn found(here: &Path, system: &Path, uid: u32) -> Result<Target, Fault> {
    let (own, data) = (here.join(CONFIG), here.join("data"));
    let mut candidates: Vec<(PathBuf, Target)> = Vec::new();
    for (path, target) in [
        (own.clone(), Target::of_config(own, false)),
        (data.clone(), Target::of_data(data, false)),
        (system.to_owned(), Target::of_config(system.to_owned(), false)),
    ] {
        // Any folder may be called data: it counts where a gateway's files are in it.
        let is_there = if target.data.is_some() {
            [CONFIG, "audit", "admin.sock"].iter().any(|name| fs::symlink_metadata(path.join(name)).is_ok())
        } else {
            fs::symlink_metadata(&path).is_ok()
        };
        let folder = |target: &Target| target.data_folder().unwrap_or_else(|_| target.config.clone());
        let known = candidates.iter().any(|(_, other)| same(&folder(other), &folder(&target)));
        if is_there && !known {
            candidates.push((path, target));
        }
    }
    match candidates.as_slice() {
        [] => Err(Fault::failed(
            "no-gateway",
            format!(
                "no gateway is named, and none is found: ./{CONFIG}, ./data and {} are not there; name one with --config FILE or --data DIR",
                system.display()
            ),
        )),
        [(path, target)] => trusted(path, uid).map(|()| target.clone()),
        several => {
            let paths: Vec<String> = several.iter().map(|(path, _)| shown(path)).collect();
            Err(Fault::usage(format!(
                "several gateways are found: {}; name one with --config FILE or --data DIR",
                paths.join(", ")
            )))
        }
    }
}

fn shown(path: &Path) -> String {
    if path.is_absolute() { path.display().to_string() } else { format!("./{}", path.display()) }
}

fn not_trusted(path: &Path, why: &str) -> Fault {
    let why = format!("{} is found, not named, and {why}; name it with --config FILE or --data DIR", shown(path));
    Fault::failed("not-trusted", why)
}

/// What was found, and not named, must be nobody else's to write.
fn trusted(path: &Path, uid: u32) -> Result<(), Fault> {
    let unreadable = |error| Fault::failed("not-trusted", format!("{}: {error}", path.display()));
    for found in [fs::symlink_metadata(path), fs::metadata(path)] {
        let owner = found.map_err(unreadable)?.uid();
        if owner != 0 && owner != uid {
            return Err(not_trusted(path, &format!("belongs to uid {owner}")));
        }
    }
    closed(path, &fs::canonicalize(path).map_err(unreadable)?)
}

/// That no folder on the way to `whole`, the absolute path of `path`, may be written by everybody.
fn closed(path: &Path, whole: &Path) -> Result<(), Fault> {
    for (distance, folder) in whole.ancestors().enumerate() {
        let Ok(found) = fs::metadata(folder) else { continue };
        // A folder with the sticky bit, such as /tmp, keeps others from replacing what lies in folders below it, not from
        // having put this there.
        let sticky = distance > 1 && found.mode() & 0o1000 != 0;
        if found.is_dir() && found.mode() & 0o002 != 0 && !sticky {
            return Err(not_trusted(path, &format!("lies in {}, which everybody may write", folder.display())));
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

        fn found(&self, uid: u32) -> Result<Target, Fault> {
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
        assert!(several.message.contains("etc/token-shield.toml") && several.message.contains("/data"), "{several}");
    }

    #[test]
    fn two_ways_to_one_data_folder_are_one_candidate() {
        let folder = Folder::new();
        folder.put("token-shield.toml", "data = \"data\"\n");
        folder.put("data/audit/x", "");
        assert_eq!(folder.found(own()).expect("one").config, folder.0.path().join("token-shield.toml"));
    }

    #[test]
    fn what_others_may_have_put_there_is_refused() {
        let folder = Folder::new();
        folder.put("token-shield.toml", "data = \"data\"\n");
        // What is root's is trusted by everybody.
        let caller = if own() == 0 { 0 } else { own() + 1 };
        if own() == 0 {
            std::os::unix::fs::chown(folder.0.path().join("token-shield.toml"), Some(12_345), None).expect("chown");
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
        assert_eq!((read.data, read.admin), (folder.0.path().join("d"), folder.0.path().join("s.sock")));
    }
}
