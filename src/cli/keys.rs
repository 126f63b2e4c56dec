//! `token-shield keys …`: signing keys of operators. The private half stays in its file.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::admin_client::{send, send_stop};
use super::confirm::Sure;
use super::fault::on_path;
use super::key_files::{generate, public_file};
use super::print::{print, say_done};
use super::rotate::Rotate;
use super::rows::text;
use super::{Failure, GatewayArgs};
use crate::control::api::AdminRequest;
use crate::control::{Command, Question};
use crate::crypto::Algorithm;
use crate::token::jwk;

#[derive(Subcommand)]
pub(super) enum KeysCommand {
    /// Generate a key: FILE (0600) is private, FILE.pub is the public JWK Set for a gateway.
    #[command(after_help = "Example: token-shield keys generate --out operator.jwk")]
    Generate(Generate),
    /// List the keys that the gateway knows.
    #[command(after_help = "Example: token-shield keys list")]
    List(GatewayArgs),
    /// Print the gateway's public keys as a JWK Set.
    #[command(after_help = "Example: token-shield keys export > operator.jwks")]
    Export(GatewayArgs),
    /// Add the public keys of a JWK Set to the gateway.
    #[command(after_help = "Example: token-shield keys import operator.jwk.pub --issuer \
            https://operator.example")]
    Import(Import),
    /// Replace the signing key with a new one. The old key may still sign during the overlap.
    #[command(after_help = "Example: token-shield keys rotate --overlap 7d")]
    Rotate(Rotate),
    /// End a signing key. Tokens that it signed before stay valid until they expire.
    #[command(after_help = "Example: token-shield keys retire KID --reason \"yearly change\"")]
    Retire(Change),
    /// Refuse everything that a key signed, at once and permanently. With --holder: every chain
    /// with a holder's key.
    #[command(after_help = "Examples:
  token-shield keys revoke KID --reason \"laptop stolen\" --yes
  token-shield keys revoke --holder KID --reason \"agent's key leaked\" --yes")]
    Revoke(RevokeKey),
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Alg {
    /// ML-DSA-65 (FIPS 204)
    #[value(name = "ML-DSA-65", alias = "ml-dsa-65")]
    MlDsa65,
    /// Ed25519 (RFC 8032)
    #[value(name = "Ed25519", alias = "ed25519")]
    Ed25519,
}

#[derive(Args)]
pub(super) struct Generate {
    /// The signature algorithm. Default: ML-DSA-65 for operators, Ed25519 for holders.
    #[arg(long)]
    alg: Option<Alg>,
    /// A holder's key, which delegates tokens, instead of an operator's.
    #[arg(long)]
    holder: bool,
    /// The private key's file. It must not exist yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Import {
    /// A JWK Set of public keys.
    file: PathBuf,
    /// The issuer that the keys belong to.
    #[arg(long)]
    issuer: Option<String>,
    #[command(flatten)]
    place: GatewayArgs,
}

#[derive(Args)]
pub(super) struct Change {
    /// The key's thumbprint, as `keys list` shows it. It may begin with a hyphen.
    #[arg(allow_hyphen_values = true)]
    kid: String,
    /// The reason, for the record.
    #[arg(long)]
    reason: String,
    /// Act on the data folder of a stopped gateway, even if it was found and not named.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    place: GatewayArgs,
}

#[derive(Args)]
pub(super) struct RevokeKey {
    /// The thumbprint of an issuer's key, as `keys list` shows it. It may begin with a hyphen.
    #[arg(
        allow_hyphen_values = true,
        required_unless_present = "holder",
        conflicts_with = "holder"
    )]
    kid: Option<String>,
    /// The thumbprint of a holder's key: the kid of the tokens that it signed, as `token inspect`
    /// shows it (cnf.jwk of the parent).
    #[arg(long, value_name = "KID", allow_hyphen_values = true)]
    holder: Option<String>,
    /// The reason, for the record.
    #[arg(long)]
    reason: String,
    /// Act on the data folder of a stopped gateway, even if it was found and not named.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    place: GatewayArgs,
}

impl RevokeKey {
    /// Revokes a key after a confirmation.
    async fn run(self) -> Result<(), Failure> {
        let (what, kid, command) = match (self.kid, self.holder) {
            (_, Some(kid)) => {
                ("holder's key", kid.clone(), Command::HolderRevoke { kid, reason: self.reason })
            }
            (Some(kid), None) => {
                ("key", kid.clone(), Command::KeyRevoke { kid, reason: self.reason })
            }
            (None, None) => return Err("name a key, or a holder's key with --holder".into()),
        };
        // Every agent with a token of this key loses access at once.
        self.sure
            .ask(&format!("this revokes the {what} {kid} and every token that it ever signed"))?;
        let reply = send_stop(&self.place, self.offline, AdminRequest::Command(command)).await?;
        say_done(&format!("revoked {what} {kid}"), json!({ "kid": kid }), &reply, self.place.json);
        Ok(())
    }
}

impl KeysCommand {
    /// Executes the command.
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Generate(Generate { alg, holder, out, json }) => {
                let algorithm = match (alg, holder) {
                    (Some(Alg::MlDsa65), _) | (None, false) => Algorithm::MlDsa65,
                    (Some(Alg::Ed25519), _) | (None, true) => Algorithm::Ed25519,
                };
                // The private key is written to its file and never printed.
                let public = generate(algorithm, &out)?;
                eprintln!(
                    "{} key in {} (keep it private), public half in {}",
                    algorithm.as_str(),
                    out.display(),
                    public_file(&out).display()
                );
                let kid = public.id().to_string();
                if json {
                    println!(
                        "{}",
                        json!({
                            "kid": kid, "alg": algorithm.as_str(), "private": out,
                            "public": public_file(&out),
                        })
                    );
                } else {
                    println!("{kid}");
                }
                Ok(())
            }
            Self::List(place) => {
                let reply = send(&place, AdminRequest::Question(Question::Keys)).await?;
                print(&reply, place.json)
            }
            Self::Export(place) => {
                let reply = send(&place, AdminRequest::Question(Question::Keys)).await?;
                let mut keys = Vec::new();
                for row in &reply.rows {
                    keys.extend(text(row, "jwk"));
                }
                // The rows contain complete JWKs, which are inserted without a change.
                println!("{{\"keys\":[{}]}}", keys.join(","));
                Ok(())
            }
            Self::Import(Import { file, issuer, place }) => {
                let set = std::fs::read_to_string(&file).map_err(on_path(&file))?;
                for key in jwk::read_set(&set).map_err(on_path(&file))? {
                    let command = Command::KeyAdd { issuer: issuer.clone(), jwk: key.write() };
                    let reply = send(&place, AdminRequest::Command(command)).await?;
                    let members = json!({ "kid": key.id().to_string() });
                    say_done(&format!("added key {}", key.id()), members, &reply, place.json);
                }
                Ok(())
            }
            Self::Rotate(rotate) => rotate.run().await,
            Self::Retire(Change { kid, reason, offline, place }) => {
                let command = Command::KeyRetire { kid: kid.clone(), from: None, reason };
                let reply = send_stop(&place, offline, AdminRequest::Command(command)).await?;
                say_done(&format!("retired key {kid}"), json!({ "kid": kid }), &reply, place.json);
                Ok(())
            }
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}
