//! The paths that need no token: public keys and the log's tree. Receipts need a token.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::guard::route::reads;
use crate::proxy::answer::Answer;
use crate::proxy::exchange::Exchange;
use crate::proxy::refused::Refused;
use crate::proxy::{DataPlaneConfig, Gateway, receipts, respond, tree};
use crate::refusal::{Allow, Code, Refusal};

/// The path of the public keys.
const KEYS_PATH: &str = "/.well-known/jwks.json";

/// A path that needs no token.
pub(super) enum Public<'r> {
    /// The public keys of the issuers.
    Keys,
    /// A file of the log's tree.
    Tree(&'r str),
    /// The root, by which clients check that a server answers.
    Root,
}

impl<'r> Public<'r> {
    /// The public resource at `path`, if the config serves it and `method` reads.
    pub(super) fn of(method: &Method, path: &'r str, config: &DataPlaneConfig) -> Option<Self> {
        if !reads(method) {
            return None;
        }
        if path == "/" && *method == Method::HEAD {
            return Some(Self::Root);
        }
        // Unpublished paths continue to authentication, as every unknown path does.
        if config.publish_keys && path == KEYS_PATH {
            return Some(Self::Keys);
        }
        config.tree.as_ref()?;
        Some(Self::Tree(path.strip_prefix(tree::PATH)?))
    }
}

impl Gateway {
    /// Answers a request for a public resource.
    ///
    /// # Errors
    /// If it does not exist, or the peer's network sends too many such requests.
    pub(super) async fn public(
        &self,
        public: Public<'_>,
        headers: &HeaderMap,
        peer: IpAddr,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refused> {
        match public {
            Public::Keys => {
                exchange.operation = "keys";
                // The peer's network has a rate here, because no credential limits these requests.
                let keys = self.authenticator.published_keys(peer)?;
                Ok(Answer::Public(Bytes::from(keys), respond::JWK_SET))
            }
            Public::Root => {
                exchange.operation = "root";
                Ok(Answer::Public(Bytes::new(), respond::TEXT))
            }
            Public::Tree(path) => {
                exchange.operation = "audit";
                let Some(tree) = exchange.config.tree.clone() else {
                    return Err(Refusal::new(Code::TreeUnknown).into());
                };
                self.tree(&tree, path, headers, peer).await
            }
        }
    }
}

/// Refuses methods that do not read on the paths of keys, the log's tree and receipts.
pub(super) fn readable(
    method: &Method,
    path: &str,
    wiring: &DataPlaneConfig,
) -> Result<(), Refusal> {
    let known = path.starts_with(receipts::PATH)
        || wiring.publish_keys && path == KEYS_PATH
        || wiring.tree.is_some() && path.starts_with(tree::PATH);
    if known && !reads(method) {
        Err(Refusal::new(Code::MethodNotAllowed).allowing(Allow::Read))
    } else {
        Ok(())
    }
}
