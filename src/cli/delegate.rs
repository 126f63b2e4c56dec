//! `token-shield token delegate`: signs a narrower token offline. It needs the parent and the
//! holder's key, but no gateway.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::fault::on_path;
use super::key_files::named_public_key;
use super::limits::Allowed;
use super::values::time;
use crate::clock::{Clock as _, SystemClock};
use crate::crypto::entropy;
use crate::secret::private_file;
use crate::token::delegate::{Narrowed, delegate};
use crate::token::jwk;

#[derive(Args)]
pub(super) struct Delegate {
    /// The file of the parent, a token or a chain. - reads it from standard input.
    #[arg(long, value_name = "FILE")]
    parent: PathBuf,
    /// The private key that the parent names (keys generate --holder).
    #[arg(long, value_name = "FILE")]
    holder_key: PathBuf,
    /// The last segment of the child's name, after its parent's name.
    #[arg(long)]
    name: String,
    /// Its lifetime. Default: 15 minutes, or as long as the parent. More is refused.
    #[arg(long, value_parser = time)]
    ttl: Option<Duration>,
    #[command(flatten)]
    allowed: Allowed,
    /// The public key of the holder who may delegate the child. Without it, the child is a bearer
    /// token.
    #[arg(long, value_name = "FILE.pub")]
    child_key: Option<PathBuf>,
    /// The most tokens in the chain.
    #[arg(long)]
    max_depth: Option<u64>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Delegate {
    /// Signs the child, and prints the chain.
    ///
    /// # Errors
    /// If the key is not the one that the parent names, or the child would be wider than the
    /// parent.
    pub(super) fn run(self) -> Result<(), Failure> {
        let parent = read(&self.parent)?;
        // The key never leaves this process. Only the signature is in the output.
        let key = jwk::read_private(&private_file(&self.holder_key)?)
            .map_err(on_path(&self.holder_key))?;
        // Limits that are not given are inherited from the parent.
        let limits = self.allowed.limits()?;
        let holder = named_public_key(self.child_key.as_deref())?;
        let wanted = Narrowed {
            name: self.name,
            ttl: self.ttl,
            scopes: self.allowed.scopes,
            limits,
            holder,
            depth_max: self.max_depth,
        };
        let entropy = u128::from_be_bytes(entropy()?);
        let chain = delegate(parent.trim(), &key, &wanted, SystemClock::start().now(), entropy)?;
        if self.json {
            println!("{}", serde_json::json!({ "done": "delegated", "token": chain }));
        } else {
            println!("{chain}");
        }
        Ok(())
    }
}

/// Reads a parent token from a file, or from standard input.
fn read(path: &Path) -> Result<String, Failure> {
    if path == Path::new("-") {
        return Ok(std::io::read_to_string(std::io::stdin())?);
    }
    Ok(std::fs::read_to_string(path).map_err(on_path(path))?)
}
