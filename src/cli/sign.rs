//! Signs a token for the gateway of a config.

use std::time::Duration;

use super::Failure;
use super::values::in_words;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::crypto::{SigningKey, entropy};
use crate::guard::settings::Issuer;
use crate::id::{AgentName, Principal};
use crate::token::constraint::Constraint;
use crate::token::{jwk, mint};

/// The content of a token to sign.
pub(super) struct TokenContent {
    pub(super) agent: AgentName,
    pub(super) principal: Option<Principal>,
    pub(super) scopes: Vec<String>,
    pub(super) limits: Vec<Constraint>,
    pub(super) ttl: Duration,
    pub(super) issuer: Option<String>,
    /// The key of the holder who may sign children, and the maximum of tokens in the chain.
    pub(super) holder: Option<(jwk::Jwk, u64)>,
}

impl TokenContent {
    /// The content of a bearer token without limits.
    pub(super) fn for_agent(agent: AgentName, ttl: Duration) -> Self {
        Self {
            agent,
            principal: None,
            scopes: Vec::new(),
            limits: Vec::new(),
            ttl,
            issuer: None,
            holder: None,
        }
    }
}

/// The issuer that is named, or the only one of the config.
///
/// # Errors
/// If the config has no issuer of that name. Without a name, if it has none or several.
pub(super) fn issuer<'c>(config: &'c Config, named: Option<&str>) -> Result<&'c Issuer, Failure> {
    let issuers = &config.guard.issuers;
    let issuer = match named {
        Some(named) => issuers.iter().find(|issuer| issuer.iss == named),
        None if issuers.len() == 1 => issuers.first(),
        None => None,
    };
    Ok(issuer.ok_or("name one of the config's issuers with --issuer")?)
}

/// Signs a token for the gateway of `config`.
pub(super) fn sign(
    config: &Config,
    key: &SigningKey,
    wanted: TokenContent,
) -> Result<String, Failure> {
    let issuer = issuer(config, wanted.issuer.as_deref())?;
    // The gateway would refuse such a token. An error here names the cause.
    let now = SystemClock::start().now();
    if wanted.ttl > issuer.ttl_max {
        let (most, last) = (in_words(issuer.ttl_max), now.plus(issuer.ttl_max));
        return Err(format!(
            "the issuer's tokens live at most {most} (ttl_max), until {last} at the latest"
        )
        .into());
    }
    // Without a principal, the agent acts for the team of its namespace.
    let principal = match wanted.principal {
        Some(principal) => principal,
        None => format!("team:{}", wanted.agent.namespace()).parse()?,
    };
    // The random part makes the token's id (jti) unique.
    let random = u128::from_be_bytes(entropy()?);
    let mut request = mint::MintRequest::new(
        mint::Parties { iss: &issuer.iss, aud: &issuer.aud },
        wanted.agent,
        principal,
        mint::TokenSpan { issued: now, lifetime: wanted.ttl },
        random,
    );
    // For the same reason: the gateway refuses a principal that the issuer may not speak for.
    if !issuer.principals.include(request.principal.as_str()) {
        let ours = issuer.principals.in_words();
        return Err(format!(
            "the issuer speaks for {ours}, not for {} (principals of the [[issuer]])",
            request.principal
        )
        .into());
    }
    request.list_max = issuer.token_list;
    request.limits = wanted.limits;
    if !wanted.scopes.is_empty() {
        request.scopes = wanted.scopes;
    }
    if let Some((holder, depth_max)) = wanted.holder {
        request = request.delegable(holder, depth_max);
    }
    Ok(mint::mint(&request, key)?)
}
