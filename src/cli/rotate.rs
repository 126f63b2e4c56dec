//! `token-shield keys rotate`: replaces the signing key with a new one. After an interruption,
//! another run continues.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::admin_client::AdminClient;
use super::key_files::{generate, key_file, public_file, signing_key};
use super::print::say_done;
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
        let client = AdminClient::open(&self.place.find()?).await?;
        let done = self.with(&client, &old, (&file, &next)).await;
        client.close()?;
        let new = done?;
        // After the gateway knows the new key. Before, its tokens would be refused.
        exchange(&file, &next, &old, &new)?;
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
                json!({ "done": "rotated", "kid": new.id().to_string(), "file": file, "former": old_file(&file, &old) })
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
        (file, next): (&Path, &Path),
    ) -> Result<Jwk, Failure> {
        let keys = client.send(AdminRequest::Question(Question::Keys)).await?.rows;
        let text = |row: &serde_json::Value, name: &str| {
            row.get(name).and_then(serde_json::Value::as_str).map(str::to_owned)
        };
        let known =
            |key: &Jwk| keys.iter().find(|row| text(row, "kid") == Some(key.id().to_string()));
        let former = known(old).ok_or_else(|| {
            let shown = file.display();
            format!(
                "the gateway does not know the key in {shown}: import its public half first \
                (token-shield keys import)"
            )
        })?;
        // After an interruption the file exists already. Its key is used again.
        if !next.exists() {
            generate(old.key().algorithm(), next)?;
            for made in [next, &public_file(next)] {
                keep_owner(file, made)?;
            }
        }
        let begun = jwk::read_private(&private_file(next)?).map_err(|fault| {
            format!(
                "{}, from an interrupted rotation: {fault}; remove it and its .pub",
                next.display()
            )
        })?;
        let new = Jwk::of(begun.public()?);
        // The file may be from an old, interrupted rotation. Its key may be revoked by now.
        let usable = known(&new).is_none_or(|row| text(row, "state").as_deref() == Some("active"));
        if !usable || new.key().algorithm() != old.key().algorithm() {
            let shown = next.display();
            return Err(format!(
                "{shown} has a key that may not sign, or of another algorithm: \
                remove it and its .pub"
            )
            .into());
        }
        // A second run finds the key registered and continues with the next step.
        if known(&new).is_none() {
            let command = Command::KeyAdd { issuer: text(former, "issuer"), jwk: new.write() };
            let reply = client.send(AdminRequest::Command(command)).await?;
            let members = json!({ "kid": new.id().to_string() });
            say_done(&format!("added key {}", new.id()), members, &reply, self.place.json);
        }
        if text(former, "state").as_deref() == Some("active") {
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

/// Gives the new file `made` to the owner of the file `of`. The owner could not read a file of
/// root's.
fn keep_owner(of: &Path, made: &Path) -> Result<(), Failure> {
    let fault = |error: std::io::Error| format!("{}: {error}", made.display());
    let (owner, own) =
        (std::fs::metadata(of).map_err(fault)?, std::fs::symlink_metadata(made).map_err(fault)?);
    if owner.uid() == own.uid() {
        return Ok(());
    }
    // The folder's owner could have replaced the new file with a link, so a link is not followed.
    Ok(std::os::unix::fs::lchown(made, Some(owner.uid()), Some(owner.gid())).map_err(fault)?)
}

/// The path for the old key: the file's name with the first 8 characters of the key's id.
fn old_file(file: &Path, old: &Jwk) -> PathBuf {
    beside(file, &format!(".{}", old.id().to_string().chars().take(8).collect::<String>()))
}

/// Replaces the old key's file in one step, so that a key file exists at every moment.
fn exchange(file: &Path, next: &Path, old: &Jwk, new: &Jwk) -> Result<(), Failure> {
    let public = public_file(file);
    let listed = std::fs::read_to_string(&public).ok().and_then(|text| jwk::read_set(&text).ok());
    let mut keys = listed.unwrap_or_else(|| vec![Jwk::of(old.key().clone())]);
    if !keys.iter().any(|key| key.id() == new.id()) {
        keys.insert(0, Jwk::of(new.key().clone()));
    }
    // The public file lists both keys, so that tokens of the old key stay valid during the overlap.
    durable::write_atomic(&public, jwk::write_set(&keys).as_bytes(), 0o644)?;
    keep_owner(file, &public)?;
    let kept = old_file(file, old);
    if !kept.exists() {
        // The link keeps the old key. The rename below then replaces the name atomically.
        std::fs::hard_link(file, &kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    }
    std::fs::rename(next, file).map_err(|error| format!("{}: {error}", next.display()))?;
    match std::fs::remove_file(public_file(next)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {error}", public_file(next).display()).into());
        }
        _ => {}
    }
    // Without this sync, a power failure could undo the rename.
    durable::sync_dir(
        file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    )?;
    Ok(())
}
