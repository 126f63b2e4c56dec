//! `token-shield keys rotate`: replaces the signing key with a new one. After an interruption,
//! another run continues.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::admin_client::AdminClient;
use super::fault::on_path;
use super::key_files::{generate, key_file, public_file, public_keys, signing_key};
use super::print::say_done;
use super::rows::text;
use super::target::folder_of;
use super::values::time;
use super::{Failure, GatewayArgs};
use crate::clock::{Clock as _, SystemClock};
use crate::control::api::AdminRequest;
use crate::control::{Command, Question};
use crate::durable;
use crate::secret::private_file;
use crate::token::jwk::{self, Jwk};

#[derive(Args)]
pub(super) struct Rotate {
    /// The private key's file, which gets the new key. Default: DATA/keys/operator.jwk.
    #[arg(long = "signing-key", alias = "key", value_name = "FILE")]
    key: Option<PathBuf>,
    /// How long copies of the old key may still sign. Tokens that they sign until then stay valid.
    #[arg(long, default_value = "1d", value_parser = time)]
    overlap: Duration,
    /// The reason, for the record.
    #[arg(long, default_value = "rotated")]
    reason: String,
    #[command(flatten)]
    place: GatewayArgs,
}

/// The path of `file` with `ending` added.
fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

impl Rotate {
    /// Rotates the key, and prints the new key's id.
    ///
    /// # Errors
    /// If the gateway does not know the old key, or a file cannot be written. Another run then
    /// continues.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let file = key_file(&config, self.key.clone());
        let old_key = signing_key(&file)?;
        let old = Jwk::of(old_key.public()?);
        let next = beside(&file, ".next");
        let files = RotationFiles { file: &file, next: &next };
        let client = AdminClient::open(&self.place.find()?).await?;
        let done = self.with(&client, &old, &files).await;
        client.close()?;
        let new = done?;
        // After the gateway knows the new key. Before, its tokens would be refused.
        files.exchange(&old, &new)?;
        eprintln!(
            "{} has the new key; the old one is in {}",
            file.display(),
            old_file(&file, &old).display()
        );
        eprintln!(
            "if a gateway reads its keys from another file than {}, replace that file",
            public_file(&file).display()
        );
        if self.place.json {
            println!(
                "{}",
                json!({
                    "done": "rotated", "kid": new.id().to_string(), "file": file,
                    "former": old_file(&file, &old),
                })
            );
        } else {
            println!("{}", new.id());
        }
        Ok(())
    }

    /// Makes the key, and registers it before the old one retires, so that no token is refused
    /// meanwhile.
    async fn with(
        &self,
        client: &AdminClient,
        old: &Jwk,
        files: &RotationFiles<'_>,
    ) -> Result<Jwk, Failure> {
        let keys = client.send(AdminRequest::Question(Question::Keys)).await?.rows;
        let Some(former) = known(&keys, old) else {
            let shown = files.file.display();
            return Err(format!(
                "the gateway does not know the key in {shown}: import its public half first \
                (token-shield keys import)"
            )
            .into());
        };
        let new = files.new_key(old)?;
        // The file may be from an old, interrupted rotation. Its key may be revoked by now.
        let usable = known(&keys, &new).is_none_or(|row| text(row, "state") == Some("active"));
        if !usable || new.key().algorithm() != old.key().algorithm() {
            let shown = files.next.display();
            return Err(format!(
                "{shown} has a key that may not sign, or of another algorithm: \
                remove it and its .pub"
            )
            .into());
        }
        // A second run finds the key registered and continues with the next step.
        if known(&keys, &new).is_none() {
            let issuer = text(former, "issuer").map(str::to_owned);
            let command = Command::KeyAdd { issuer, jwk: new.write() };
            let reply = client.send(AdminRequest::Command(command)).await?;
            let members = json!({ "kid": new.id().to_string() });
            say_done(&format!("added key {}", new.id()), members, &reply, self.place.json);
        }
        if text(former, "state") == Some("active") {
            let from = SystemClock::start().now().plus(self.overlap).to_string();
            let command = Command::KeyRetire {
                kid: old.id().to_string(),
                from: Some(from.clone()),
                reason: self.reason.clone(),
            };
            let reply = client.send(AdminRequest::Command(command)).await?;
            let members = json!({ "kid": old.id().to_string(), "from": from });
            say_done(
                &format!("key {} retires at {from}", old.id()),
                members,
                &reply,
                self.place.json,
            );
        }
        Ok(new)
    }
}

/// The gateway's row about a key. `None` if the gateway does not know the key.
fn known<'k>(keys: &'k [Value], key: &Jwk) -> Option<&'k Value> {
    let kid = key.id().to_string();
    keys.iter().find(|row| text(row, "kid") == Some(kid.as_str()))
}

/// The private files of a rotation.
struct RotationFiles<'r> {
    /// The key's file. It has the old key until the exchange.
    file: &'r Path,
    /// The file of the new key until the exchange.
    next: &'r Path,
}

impl RotationFiles<'_> {
    /// The new key. It is made if an interrupted rotation did not make it before.
    fn new_key(&self, old: &Jwk) -> Result<Jwk, Failure> {
        // After an interruption the file exists already. Its key is used again.
        if !self.next.exists() {
            generate(old.key().algorithm(), self.next)?;
        }
        // Also after an interruption: it may have come before the change of the owner.
        for made in [self.next, &public_file(self.next)] {
            if made.exists() {
                keep_owner(self.file, made)?;
            }
        }
        let begun = jwk::read_private(&private_file(self.next)?).map_err(|fault| {
            format!(
                "{}, from an interrupted rotation: {fault}; remove it and its .pub",
                self.next.display()
            )
        })?;
        Ok(Jwk::of(begun.public()?))
    }

    /// Replaces the old key's file in one step, so that a key file exists at every moment.
    fn exchange(&self, old: &Jwk, new: &Jwk) -> Result<(), Failure> {
        let (file, next) = (self.file, self.next);
        let public = public_file(file);
        let mut keys = public_keys(&public).unwrap_or_else(|| vec![Jwk::of(old.key().clone())]);
        if !keys.iter().any(|key| key.id() == new.id()) {
            keys.insert(0, Jwk::of(new.key().clone()));
        }
        // The public file lists both keys, so that tokens of the old key stay valid during the
        // overlap.
        durable::write_atomic(&public, jwk::write_set(&keys).as_bytes(), 0o644)?;
        keep_owner(file, &public)?;
        let kept = old_file(file, old);
        if !kept.exists() {
            // The link keeps the old key. The rename below then replaces the name atomically.
            std::fs::hard_link(file, &kept).map_err(on_path(&kept))?;
        }
        std::fs::rename(next, file).map_err(on_path(next))?;
        match std::fs::remove_file(public_file(next)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", public_file(next).display()).into());
            }
            _ => {}
        }
        // The folder of a name without a folder is empty, and cannot be opened.
        let folder = folder_of(file);
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        // Without this sync, a power failure could undo the rename.
        durable::sync_dir(folder)?;
        Ok(())
    }
}

/// Gives the new file `made` to the owner of the file `of`. The owner could not read a file of
/// root's.
fn keep_owner(of: &Path, made: &Path) -> Result<(), Failure> {
    // Errors name the new file, also if the other one cannot be read.
    let owner = std::fs::metadata(of).map_err(on_path(made))?;
    let own = std::fs::symlink_metadata(made).map_err(on_path(made))?;
    if owner.uid() == own.uid() {
        return Ok(());
    }
    // The folder's owner could have replaced the new file with a link, so a link is not followed.
    std::os::unix::fs::lchown(made, Some(owner.uid()), Some(owner.gid())).map_err(on_path(made))?;
    Ok(())
}

/// The path for the old key: the file's name with the first 8 characters of the key's id.
fn old_file(file: &Path, old: &Jwk) -> PathBuf {
    beside(file, &format!(".{}", old.id().to_string().chars().take(8).collect::<String>()))
}
