//! `why`: explains in sentences how one request ended. Records are read from the data folder, so
//! the answer is the same with and without a running gateway. Refusals that are only counted are
//! known to a running gateway alone.

use clap::Args;

use super::super::admin_client::send;
use super::super::rows::{shown, text};
use super::super::{Failure, GatewayArgs};
use crate::audit::read::reader::{self, DecryptedRecord};
use crate::audit::store::vault::Vault;
use crate::control::Question;
use crate::control::api::AdminRequest;
use crate::refusal::Code;

#[derive(Args)]
pub(in crate::cli) struct Why {
    /// The request's id, rq_…, from the answer's token-shield-request.
    request: String,
    #[command(flatten)]
    place: GatewayArgs,
}

impl Why {
    /// Prints the records of the request, or the refusal that the gateway remembers.
    ///
    /// # Errors
    /// If there is neither.
    pub(in crate::cli) async fn run(self) -> Result<(), Failure> {
        let question = Question::Why { request: self.request.clone() };
        let reply = send(&self.place, AdminRequest::Question(question)).await?;
        let remembered = reply.rows.first();
        // Refusals of unauthenticated callers are only counted, so the log has no record of them.
        let unauthenticated = remembered.is_some_and(|told| !told["network"].is_null());
        let found = if unauthenticated { Vec::new() } else { self.recorded()? };
        match remembered {
            // A record has more details than the gateway's memory, so it comes first.
            _ if !found.is_empty() => found.iter().for_each(|told| self.say(told)),
            Some(told) if self.place.json => println!("{told}"),
            Some(told) => println!("{}", remembered_sentence(told)),
            None => {
                return Err(format!(
                    "there is no record of {}, and the gateway does not remember it",
                    self.request
                )
                .into());
            }
        }
        Ok(())
    }

    /// The records of the request, in order.
    fn recorded(&self) -> Result<Vec<DecryptedRecord>, Failure> {
        let config = self.place.read()?;
        let vault = Vault::read(&config.audit.record_keys)?;
        let mut found: Vec<DecryptedRecord> = Vec::new();
        for epoch in reader::epochs(&config.audit.dir)? {
            let _ = reader::each(&epoch, 0, |record| {
                // A record that these keys do not decrypt does not show its request. It is skipped.
                let told = record.tell(&vault).ok();
                found.extend(
                    told.filter(|told| told.text("request").as_deref() == Some(&self.request)),
                );
                std::ops::ControlFlow::Continue(())
            })?;
        }
        Ok(found)
    }

    /// Prints one record as JSON or as a sentence.
    fn say(&self, told: &DecryptedRecord) {
        if self.place.json {
            println!("{}", told.line());
        } else {
            println!("{}", sentence(told));
        }
    }
}

/// A text of a record's payload. Empty if it has none.
fn member(told: &DecryptedRecord, name: &str) -> String {
    told.text(name).unwrap_or_default()
}

/// A number of a record's payload. 0 if it has none.
fn number(told: &DecryptedRecord, name: &str) -> u64 {
    told.number(name).unwrap_or(0)
}

/// `text` after the words `before`. Empty without a text.
fn phrase(before: &str, text: Option<String>) -> String {
    match text {
        Some(text) => format!("{before}{text}"),
        None => String::new(),
    }
}

/// A record of the request, as a sentence.
fn sentence(told: &DecryptedRecord) -> String {
    let (at, record) = (&told.at, &told.record);
    let operation = match (member(told, "operation"), told.text("model")) {
        (operation, Some(model)) => format!("{operation} with model {model}"),
        (operation, None) if operation.is_empty() => "a request".to_owned(),
        (operation, None) => operation,
    };
    let server = phrase(" at upstream ", told.text("upstream.name"));
    let from = phrase(" from ", told.text("peer"));
    let (code, detail) = (member(told, "code"), told.text("detail"));
    // The explanation is that of docs/REFUSALS.md, so both always agree.
    let because = meaning(&code, detail.as_deref(), told.text("param").as_deref());
    match told.kind.as_str() {
        "admission" => {
            let (agent, principal) = (member(told, "agent"), member(told, "principal"));
            format!(
                "{at}: Agent {agent} of {principal} asked{from} for {operation}. It was \
                    admitted{server} (record {record})."
            )
        }
        "refusal" => {
            let (agent, stage) = (member(told, "agent"), member(told, "stage"));
            let status = number(told, "status");
            format!(
                "{at}: Agent {agent} asked{from} for {operation}. It was refused at the stage \
                    {stage} with status {status}, {code} (record {record}).{because}"
            )
        }
        _ => {
            let (status, ms) = (number(told, "status"), number(told, "ms"));
            let became = match code.as_str() {
                "ok" => format!("It was answered{server} with status {status}"),
                "upstream-error" => {
                    format!("It was answered{server} with that server's own error, status {status}")
                }
                "aborted" => "Its caller disconnected before the answer was complete".to_owned(),
                _ => format!("It ended with status {status}, {code}{server}"),
            };
            format!("{at}: {became}, after {ms} ms (record {record}).{because}")
        }
    }
}

/// A refusal that was only counted, as a sentence. Only a running gateway remembers it.
fn remembered_sentence(told: &serde_json::Value) -> String {
    let (at, stage, code) = (shown(told, "at"), shown(told, "stage"), shown(told, "code"));
    let who = match (text(told, "agent"), text(told, "network")) {
        (Some(agent), _) => format!("Agent {agent}"),
        (None, network) => format!("A caller at {}", network.unwrap_or("an unknown address")),
    };
    let because = meaning(code, text(told, "detail"), text(told, "param"));
    format!(
        "{at}: {who} sent a request. It was refused at the stage {stage}, {code}; it was only \
            counted, not recorded.{because}"
    )
}

/// The meaning of a code and further details, each on a line.
fn meaning(code: &str, detail: Option<&str>, param: Option<&str>) -> String {
    let mut text = String::new();
    if let Some(known) = Code::ALL.iter().find(|known| known.as_str() == code) {
        text.push_str(&format!("\n  {}", known.meaning()));
    }
    if let Some(param) = param {
        text.push_str(&format!("\n  In the body: {param}"));
    }
    if let Some(detail) = detail {
        text.push_str(&format!("\n  Cause: {detail}"));
    }
    text
}
