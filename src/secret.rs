//! References to secrets: the config names the location of a secret, never its value.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The location of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `file:PATH`: a file that only its owner may read.
    File(PathBuf),
    /// `env:NAME`: an environment variable.
    Env(String),
    /// `cred:NAME`: a systemd credential, a file under `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// Why a secret cannot be read. It never contains the value.
#[derive(Debug, thiserror::Error)]
pub enum SecretFault {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// Other users may read the file.
    #[error("{0}: others may read this file; chmod 600 it")]
    Open(PathBuf),
    /// The variable is not set.
    #[error("the environment variable {0} is not set")]
    Env(String),
    /// There are no systemd credentials.
    #[error("cred:{0}: CREDENTIALS_DIRECTORY is not set (systemd sets it for LoadCredential=)")]
    Credential(String),
}

impl SecretRef {
    /// Parses `file:`, `env:` or `cred:`. A relative path is relative to `base`.
    #[must_use]
    pub fn read(text: &str, base: &Path) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        if rest.is_empty() {
            return None;
        }
        match scheme {
            "file" => Some(Self::File(base.join(rest))),
            "env" => Some(Self::Env(rest.to_owned())),
            "cred" => Some(Self::Credential(rest.to_owned())),
            _ => None,
        }
    }

    /// Reads the secret, without line ends after it.
    ///
    /// # Errors
    /// If it is missing, or other users may read it.
    pub fn load(&self) -> Result<Zeroizing<String>, SecretFault> {
        let text = match self {
            Self::File(path) => private_file(path)?,
            Self::Env(name) => {
                Zeroizing::new(std::env::var(name).map_err(|_| SecretFault::Env(name.clone()))?)
            }
            Self::Credential(name) => {
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| SecretFault::Credential(name.clone()))?;
                // systemd itself restricts access to credentials, so their mode is not checked.
                read(&Path::new(&folder).join(name))?
            }
        };
        // Editors and `echo` add a line end, which is no part of the secret.
        Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// Reads a file into memory that is erased on drop.
fn read(path: &Path) -> Result<Zeroizing<String>, SecretFault> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SecretFault::Read { path: path.to_owned(), error })?;
    Ok(Zeroizing::new(text))
}

/// Reads a file that only its owner may read.
///
/// # Errors
/// If it cannot be read, or group or others may read it.
pub fn private_file(path: &Path) -> Result<Zeroizing<String>, SecretFault> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let about = std::fs::metadata(path)
            .map_err(|error| SecretFault::Read { path: path.to_owned(), error })?;
        // A secret that group or others can read may already be known to them, so it is refused.
        if about.permissions().mode() & 0o077 != 0 {
            return Err(SecretFault::Open(path.to_owned()));
        }
    }
    read(path)
}
