//! `token-shield dev`: a gateway with built-in defaults. It makes its own keys, so it can sign
//! tokens. A gateway of `serve` cannot.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::fault::CliFault;
use super::key_files::{generate, public_file};
use super::logs::{self, LogFormat};
use super::probe::{self, FoundServer};
use super::ready::{ReadyLines, chat_model, profile_of};
use super::serve::until_told;
use super::sign::{TokenContent, sign};
use super::target::own_folder;
use crate::app::{App, Listeners};
use crate::audit::store::log::LogSettings;
use crate::control::{Command, Operator};
use crate::crypto::Algorithm;
use crate::durable;
use crate::secret::private_file;
use crate::token::jwk::{self, Jwk};

#[derive(Args)]
pub(super) struct Dev {
    /// The address for agents, loopback only. Port 0: any port.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8700")]
    listen: SocketAddr,
    /// The address for metrics. Port 0: any port.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// An inference server. Without it, dev tries the usual ports.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The kind of server at --upstream: vllm, llama.cpp, ollama, tgi, sglang or generic. Default:
    /// the kind that its answers show.
    #[arg(long, value_name = "NAME")]
    upstream_profile: Option<String>,
    /// A model of --upstream, if the server does not list its models. Repeatable.
    #[arg(long = "upstream-model", value_name = "MODEL")]
    upstream_models: Vec<String>,
    /// Serve the first chat model under the names claude-* and gpt-* too.
    #[arg(long)]
    alias: bool,
    /// Serve TLS with a generated certificate. Its CA is DATA/tls/ca.pem.
    #[arg(long)]
    tls: bool,
    /// The data folder. Default: TOKEN_SHIELD_DATA or ./data. dev writes its config there and uses
    /// no other.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print one JSON object about the gateway instead of the text, and errors as JSON.
    #[arg(long)]
    json: bool,
    /// The form of log lines.
    #[arg(long, value_enum, default_value = "text")]
    log: LogFormat,
}

/// The path of the data folder.
struct DevFolder<'d> {
    /// As it was named, for people.
    named: &'d Path,
    /// The absolute path without links, for programs.
    whole: &'d Path,
}

/// The config's name in the data folder.
const CONFIG: &str = "token-shield.toml";
/// The first line of the config that `dev` writes at each start.
const MARK: &str = "# Written by `token-shield dev` at each start.";
/// The lifetime of the development token.
const TTL: Duration = Duration::from_secs(24 * 3600);

impl Dev {
    /// Makes keys and a config if necessary, and runs the gateway until a stop.
    ///
    /// # Errors
    /// If the address is not loopback, or the data folder has a config of another gateway.
    pub(super) async fn run(self) -> Result<(), Failure> {
        logs::start(self.log)?;
        // The development token is in a file, so other machines must not reach this gateway.
        if !self.listen.ip().is_loopback() {
            return Err(
                "dev listens on loopback only; write a config and use `token-shield serve`".into(),
            );
        }
        let folder = own_folder(self.data.clone())?;
        free_of_others(&folder.join(CONFIG))?;
        // Before the first write: root would leave files there that the folder's owner cannot read.
        LogSettings::of_data(&folder, "dev").is_own()?;
        durable::make_private_dir(&folder)?;
        let data = folder.canonicalize()?;
        durable::make_private_dir(&data.join("keys"))?;
        let key = data.join("keys/operator.jwk");
        let public = public_file(&key);
        if !key.exists() {
            generate(Algorithm::MlDsa65, &key)?;
        } else if !public.exists() {
            // The first start was interrupted here.
            let own = Jwk::of(jwk::read_private(&private_file(&key)?)?.public()?);
            durable::write_atomic(&public, jwk::write_set(&[own]).as_bytes(), 0o644)?;
        }
        if self.tls {
            make_certificate(&data)?;
        }
        let found = self.find().await?;
        let text = self.config_text(&found);
        let config = crate::config::read(&text, &data).map_err(|faults| faults.to_string())?;
        let file = data.join(CONFIG);
        // The lock comes first: a running gateway may use the file.
        let app = App::build(config.clone(), Some(file.clone()))?;
        durable::write_atomic(&file, text.as_bytes(), 0o600)?;
        let listeners = Listeners::bind(&config).await?;
        let signing = jwk::read_private(&private_file(&key)?)?;
        let token = sign(&config, &signing, TokenContent::for_agent("default/dev".parse()?, TTL))?;
        let operator = Operator(format!("uid:{}", rustix::process::getuid().as_raw()));
        app.control()
            .apply(&operator, Command::TokenRegister { token: token.clone(), class: None })
            .await?;
        // Only the owner may read the token.
        durable::write_atomic(&data.join("dev.token"), token.as_bytes(), 0o600)?;
        // Before the announcement: a program that reads it may send the stop at once.
        let stop = until_told()?;
        let place = DevFolder { named: &folder, whole: &data };
        self.announce(&listeners, &place, &token, &found)?;
        app.run(listeners, stop).await?;
        Ok(())
    }

    /// The inference servers: the named one, or those on the usual ports.
    async fn find(&self) -> Result<Vec<FoundServer>, Failure> {
        let Some(url) = &self.upstream else { return Ok(probe::usual().await) };
        let (target, base_path) = crate::config::upstream_url(url)
            .ok_or("--upstream must be http://HOST:PORT, https://HOST:PORT or unix:PATH")?;
        let mut models = self.upstream_models.clone();
        if models.is_empty() {
            models = probe::models(&target.authority(), &base_path).await.unwrap_or_default();
        }
        if models.is_empty() {
            eprintln!(
                "warning  {url} lists no models; name one with --upstream-model, or start the \
                    server first"
            );
        }
        let found = match &self.upstream_profile {
            Some(_) => None,
            None => probe::kind(&target.authority(), &base_path).await,
        };
        let (name, kind) = match found {
            Some(found) => (found.name, found.profile),
            None => ("upstream", "generic"),
        };
        let profile = match &self.upstream_profile {
            Some(profile) => profile.clone(),
            None => kind.to_owned(),
        };
        Ok(vec![FoundServer { name, authority: target.authority(), profile, models }])
    }

    /// The text of the config, with a model for each name that a server lists. The first server
    /// with a name gets it.
    fn config_text(&self, found: &[FoundServer]) -> String {
        let metrics = self.metrics.unwrap_or_else(|| {
            let port = if self.listen.port() == 0 { 0 } else { 9464 };
            SocketAddr::from(([127, 0, 0, 1], port))
        });
        let tls = if self.tls {
            "\ntls = { cert = \"tls/cert.pem\", key = \"file:tls/key.pem\" }"
        } else {
            ""
        };
        let mut text = format!(
            "{MARK}\nname = \"dev\"\ndata = \".\"\n\n[listen]\napi = \"{}\"\nmetrics \
                = \"{metrics}\"{tls}\n\n\
             [[issuer]]\niss = \"urn:token-shield:dev\"\naud = \"urn:token-shield:dev\"\njwks \
             = \"keys/operator.jwk.pub\"\nnamespaces = [\"*\"]\n\n\
             [audit]\nreserve = \"16MiB\"\n\n\
             [class.default]\nrpm = 600\nburst = 100\nin_flight = 16\n\n\
             [[upstream]]\nname = \"echo\"\nurl = \"echo:\"\nprofile = \"generic\"\ncontrolled = \
             true\n\n[[model]]\nname = \"echo\"\nroute = [\"echo\"]\n{}",
            self.listen,
            self.aliases("echo", found)
        );
        let mut seen = vec!["echo".to_owned()];
        for (place, server) in found.iter().enumerate() {
            let url = match &self.upstream {
                Some(url) => url.clone(),
                None => format!("http://{}", server.authority),
            };
            let _ = write!(
                text,
                "\n[[upstream]]\nname = \"server-{place}\"\nurl = {}\nprofile = {}\ncontrolled = \
                    true\n",
                // Names come from a server's answer. Quotes keep them from adding keys to the
                // config.
                quoted(&url),
                quoted(&server.profile)
            );
            for model in &server.models {
                if !seen.contains(model) {
                    let _ = write!(
                        text,
                        "\n[[model]]\nname = {}\nroute = [\"server-{place}\"]\n{}",
                        quoted(model),
                        self.aliases(model, found)
                    );
                    seen.push(model.clone());
                }
            }
        }
        text
    }

    /// The aliases of a model, as a line of the config.
    fn aliases(&self, model: &str, found: &[FoundServer]) -> &'static str {
        if self.alias && model == chat_model(found) {
            "aliases = [\"claude-*\", \"gpt-*\"]\n"
        } else {
            ""
        }
    }

    /// Prints the addresses, the token and the servers that were found.
    fn announce(
        &self,
        listeners: &Listeners,
        place: &DevFolder<'_>,
        token: &str,
        found: &[FoundServer],
    ) -> Result<(), Failure> {
        let folder = place.named;
        let scheme = if self.tls { "https" } else { "http" };
        let (api, metrics) = (listeners.api.local_addr()?, listeners.metrics.local_addr()?);
        if self.json {
            let about = serde_json::json!({
                "url": format!("{scheme}://{api}"),
                "token": token,
                "metrics": format!("http://{metrics}/metrics"),
                "data": place.whole,
            });
            println!("{about}");
            return Ok(());
        }
        println!(
            "token-shield {}   development: keys in {} (0700), loopback only; programs of this \
                user are operators",
            env!("CARGO_PKG_VERSION"),
            folder.display()
        );
        for server in found {
            println!(
                "  found    {} {}   {}   (the model echo is always available)",
                server.name,
                server.authority,
                server.models.join("   ")
            );
            if port_of(&server.authority).is_some_and(probe::open_beyond_loopback) {
                println!(
                    "  warning  {} also listens beyond loopback: agents can bypass this gateway; \
                        bind it to 127.0.0.1",
                    server.name
                );
            }
        }
        if found.is_empty() {
            println!("  found    no inference server on the usual ports; the model echo answers");
        }
        let file = folder.join("dev.token");
        let trust = if self.tls {
            format!(" --cacert {}", folder.join("tls/ca.pem").display())
        } else {
            String::new()
        };
        println!("  api      {scheme}://{api}/v1        metrics  http://{metrics}/metrics");
        println!("  token    {}   (ML-DSA-65, agent default/dev, 24 h)", file.display());
        let ready = ReadyLines {
            url: &format!("{scheme}://{api}"),
            token: &format!("$(cat {})", file.display()),
            model: chat_model(found),
            profile: profile_of(found),
        };
        ready.print();
        println!(
            "  try      curl -s{trust} {scheme}://{api}/v1/chat/completions -H \"Authorization: \
                Bearer $(cat {})\" \\\n             -H 'content-type: application/json' -d \
                '{{\"model\":\"echo\",\
                \"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'",
            file.display()
        );
        Ok(())
    }
}

/// The port of `HOST:PORT`.
fn port_of(authority: &str) -> Option<u16> {
    authority.rsplit(':').next()?.parse().ok()
}

/// Checks that `dev` wrote the config in the data folder. It does not overwrite another config.
fn free_of_others(file: &Path) -> Result<(), CliFault> {
    match std::fs::read_to_string(file) {
        Ok(text) if !text.starts_with(MARK) => {
            let shown = file.display();
            let hint = format!(
                "start that gateway with token-shield serve --config {shown}, or name another \
                    folder with --data DIR"
            );
            Err(CliFault::failed(
                "failed",
                format!("{shown} was not written by dev, which would overwrite it: {hint}"),
            ))
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CliFault::failed(
            "failed",
            format!("{}: {error}; name another folder with --data DIR", file.display()),
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Makes a CA and a certificate for loopback (ECDSA P-256), once.
fn make_certificate(data: &Path) -> Result<(), Failure> {
    let folder = data.join("tls");
    if folder.join("cert.pem").exists() {
        return Ok(());
    }
    durable::make_private_dir(&folder)?;
    let ca_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut about = rcgen::CertificateParams::new(Vec::new())?;
    // This CA signs leaf certificates only.
    about.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    about.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    about.distinguished_name.push(rcgen::DnType::CommonName, "token-shield dev CA");
    let ca = about.self_signed(&ca_key)?;
    let issuer = rcgen::Issuer::new(about, ca_key);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut names = rcgen::CertificateParams::new(vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ])?;
    names.distinguished_name.push(rcgen::DnType::CommonName, "token-shield dev");
    names.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    names.use_authority_key_identifier_extension = true;
    let certificate = names.signed_by(&key, &issuer)?;
    durable::write_atomic(&folder.join("ca.pem"), ca.pem().as_bytes(), 0o644)?;
    durable::write_atomic(&folder.join("key.pem"), key.serialize_pem().as_bytes(), 0o600)?;
    // Last: its presence marks a complete set, so an interrupted run makes all files again.
    durable::write_atomic(&folder.join("cert.pem"), certificate.pem().as_bytes(), 0o644)?;
    Ok(())
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_half_stands_beside_the_private_one() {
        assert_eq!(public_file(Path::new("keys/operator.jwk")), Path::new("keys/operator.jwk.pub"));
        assert_eq!(quoted("a\"b"), "'a\"b'");
    }
}
