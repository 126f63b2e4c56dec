//! The knowledge about weights that one process gives to the next, so that large files are not
//! hashed again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::files::SeenFile;
use super::{MEASURED, REPORTED, UNKNOWN, Weights};
use crate::audit::format::request::ModelDigest;
use crate::lock::locked;

/// The known digests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// The hashed sets of files.
    hashed: Vec<Hashed>,
    /// The digests of models at servers.
    told: Vec<PassedDigest>,
}

/// A set of files with the stamps that they had when they were hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hashed {
    /// The paths in the config.
    files: Vec<PathBuf>,
    /// The files with their stamps.
    seen: Vec<SeenFile>,
    /// The digest of the set.
    digest: String,
}

/// The digest of a model at a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PassedDigest {
    /// The name of the model.
    model: String,
    /// The name of the upstream.
    upstream: String,
    /// The address of the upstream.
    address: String,
    /// The digest.
    digest: String,
    /// The source: measured or reported.
    source: String,
}

impl PassedDigest {
    /// Its source, if it is a known one. The text of another process is not trusted.
    fn known_source(&self) -> Option<&'static str> {
        [MEASURED, REPORTED].into_iter().find(|source| *source == self.source)
    }
}

impl Weights {
    /// Stores the digest of a set of files with the stamps `seen`.
    pub fn remember(&self, files: &[PathBuf], seen: &[SeenFile], digest: &str) {
        let mut hashed = locked(&self.hashed);
        // One entry for each set of files, so that the list does not grow.
        hashed.retain(|known| known.files != files);
        hashed.push(Hashed {
            files: files.to_vec(),
            seen: seen.to_vec(),
            digest: digest.to_owned(),
        });
    }

    /// The stored digest of the files, if their stamps are unchanged.
    #[must_use]
    pub fn hashed(&self, files: &[PathBuf], seen: &[SeenFile]) -> Option<ModelDigest> {
        let hashed = locked(&self.hashed);
        let known = hashed.iter().find(|known| known.files == files && known.seen == seen)?;
        Some(ModelDigest { value: known.digest.clone(), source: MEASURED })
    }

    /// The digests that are known now.
    #[must_use]
    pub fn passed(&self) -> Passed {
        let mut told = Vec::new();
        for model in self.declared() {
            for place in &model.places {
                let digest = self.digest(&model.name, &place.upstream);
                if digest.source != UNKNOWN {
                    told.push(PassedDigest {
                        model: model.name.to_string(),
                        upstream: place.upstream.to_string(),
                        address: place.address.clone(),
                        digest: digest.value.clone(),
                        source: digest.source.to_owned(),
                    });
                }
            }
        }
        Passed { hashed: locked(&self.hashed).clone(), told }
    }

    /// Takes the digests of another process, for the same model at the same upstream and address.
    /// They apply until the digest is determined again.
    pub fn take_in(&self, passed: Passed) {
        for model in self.declared() {
            for place in &model.places {
                let told = passed.told.iter().find(|told| {
                    *told.model == *model.name
                        && *told.upstream == *place.upstream
                        // Another address is another server, which may have other weights.
                        && told.address == place.address
                });
                if let Some(told) = told
                    && let Some(source) = told.known_source()
                {
                    self.note(&model, place, &ModelDigest { value: told.digest.clone(), source });
                }
            }
        }
        *locked(&self.hashed) = passed.hashed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::files::look;
    use crate::weights::{Declared, DigestSource, ModelServer};

    #[test]
    fn what_was_hashed_is_known_to_the_next_process_until_it_changes() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("model.gguf");
        std::fs::write(&file, b"weights").expect("file");
        let files = vec![file.clone()];
        let place =
            ModelServer { upstream: "u".into(), address: "a".to_owned(), way: DigestSource::Files };
        let places = vec![place.clone()];
        let declared = Declared {
            name: "m".into(),
            upstream_name: "m".to_owned(),
            files: files.clone(),
            pin: Some("sha256:1".to_owned()),
            places,
        };
        let before = Weights::default();
        before.declare(vec![declared.clone()]);
        let seen = look(&files).expect("seen");
        before.remember(&files, &seen, "sha256:1");
        before.note(
            &declared,
            &place,
            &ModelDigest { value: "sha256:1".to_owned(), source: MEASURED },
        );
        let text = serde_json::to_string(&before.passed()).expect("written");
        let after = Weights::default();
        after.declare(vec![declared]);
        assert!(!after.passes("m", "u"));
        after.take_in(serde_json::from_str(&text).expect("read"));
        assert!(after.passes("m", "u"));
        assert_eq!(
            after.hashed(&files, &seen).map(|digest| digest.value).as_deref(),
            Some("sha256:1")
        );
        std::fs::write(&file, b"others").expect("file");
        assert_eq!(after.hashed(&files, &look(&files).expect("seen")), None);
    }
}
