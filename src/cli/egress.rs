//! `token-shield egress …`: explains whether the egress policy allows a URL.

use clap::{Args, Subcommand, ValueEnum};

use super::admin_client::send;
use super::rows::text;
use super::values::agent_name;
use super::{Failure, GatewayArgs};
use crate::app::egress_policy_of;
use crate::control::Question;
use crate::control::api::AdminRequest;
use crate::guard::egress::destination::Destination;
use crate::guard::egress::policy::{
    EgressPolicy, PolicyStep, TokenRestrictions, Uncontrolled, Use,
};
use crate::guard::settings::{Class, RequestFilterAction, ResponseFilterAction, ToolCallAction};
use crate::id::AgentName;
use crate::token::Presented;

#[derive(Subcommand)]
pub(super) enum EgressCommand {
    /// Show step by step whether a URL is controlled, and what the filters do with it. No name
    /// is looked up, and no request is sent.
    #[command(
        after_help = "Example: token-shield egress check https://cdn.example/a.png --use media \
            --agent research/summarizer"
    )]
    Check(Check),
}

#[derive(Args)]
pub(super) struct Check {
    /// The URL. - reads URLs from standard input, one a line.
    url: String,
    /// The use of the URL: fetched content, a link, or a connection of the agent. Default: all
    /// three.
    #[arg(long = "use", value_name = "USE")]
    wanted: Option<UseArg>,
    /// The agent whose class applies. Without it, the class `default`.
    #[arg(long, value_parser = agent_name)]
    agent: Option<AgentName>,
    /// A token that may restrict the lists (- for standard input). It is read, not verified.
    #[arg(long)]
    token: Option<String>,
    #[command(flatten)]
    place: GatewayArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum UseArg {
    Media,
    Links,
    Tunnel,
}

impl UseArg {
    /// The use in the policy.
    const fn to_use(self) -> Use {
        match self {
            Self::Media => Use::Media,
            Self::Links => Use::Links,
            Self::Tunnel => Use::Tunnel,
        }
    }
}

impl EgressCommand {
    /// Executes the command.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self::Check(check) = self;
        check.run().await
    }
}

impl Check {
    /// Evaluates the URLs, and prints each step.
    ///
    /// # Errors
    /// If one of them is not controlled, so that scripts can use the exit code.
    async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let restrictions = match &self.token {
            None => TokenRestrictions::default(),
            Some(token) => {
                let text = if token == "-" {
                    std::io::read_to_string(std::io::stdin())?
                } else {
                    token.clone()
                };
                // The token is not verified. A token can only restrict the policy, so a forged one
                // has no advantage.
                let read = Presented::read(text.trim()).and_then(|token| token.grants());
                TokenRestrictions::of(
                    read.map_err(|refusal| {
                        format!("--token: {}: {}", refusal.code, refusal.message)
                    })?
                    .iter(),
                )
            }
        };
        let name = match &self.agent {
            None => "default".to_owned(),
            Some(agent) => class_of(&self.place, agent).await?,
        };
        let Some(class) = config.guard.classes.get(&name) else {
            return Err(format!("there is no [class.{name}] in the config").into());
        };
        // The same policy as in the gateway, from the same config.
        let bench = PolicyCheck {
            policy: egress_policy_of(&config),
            restrictions,
            class,
            json: self.place.json,
        };
        let uses = self.wanted.map_or_else(|| Use::ALL.to_vec(), |wanted| vec![wanted.to_use()]);
        if self.url == "-" {
            return bench.check_lines(&uses);
        }
        match bench.first_refusal(&uses, &self.url) {
            None => Ok(()),
            Some((wanted, why)) => {
                Err(format!("not controlled for {}: {why}", wanted.as_str()).into())
            }
        }
    }
}

/// The egress policy with which URLs are checked, and the class that decides what happens to them.
struct PolicyCheck<'c> {
    policy: EgressPolicy,
    restrictions: TokenRestrictions,
    class: &'c Class,
    json: bool,
}

impl PolicyCheck<'_> {
    /// Evaluates the URLs of standard input, one a line.
    ///
    /// # Errors
    /// After the last line, if a URL is not controlled for one of the uses.
    fn check_lines(&self, uses: &[Use]) -> Result<(), Failure> {
        let text = std::io::read_to_string(std::io::stdin())?;
        let (mut count, mut refused) = (0_usize, 0_usize);
        for url in text.lines() {
            count += 1;
            if self.first_refusal(uses, url).is_some() {
                refused += 1;
            }
        }
        if refused > 0 {
            return Err(format!("{refused} of {count} are not controlled").into());
        }
        Ok(())
    }

    /// Evaluates a URL for each use, and prints the steps. Returns the first use for which the URL
    /// is not controlled, with the reason.
    fn first_refusal(&self, uses: &[Use], url: &str) -> Option<(Use, Uncontrolled)> {
        let mut first = None;
        for wanted in uses {
            // A refusal does not end the loop, so that the output has every use.
            if let Err(why) = self.evaluate(*wanted, url)
                && first.is_none()
            {
                first = Some((*wanted, why));
            }
        }
        first
    }

    /// Evaluates a URL, and prints the steps.
    fn evaluate(&self, wanted: Use, url: &str) -> Result<(), Uncontrolled> {
        let steps = self.policy.explain(wanted, url, &self.restrictions);
        let judged = match self.policy.evaluate(wanted, url, &self.restrictions) {
            Ok(_) => Ok(()),
            Err(why) => Err(why),
        };
        let becomes = becomes(wanted, self.class, url, judged.is_ok());
        if self.json {
            let steps: Vec<_> = steps.iter().map(step_row).collect();
            println!(
                "{}",
                serde_json::json!({
                    "url": url,
                    "use": wanted.as_str(),
                    "destination": Destination::read(url).ok().map(|read| read.to_string()),
                    "controlled": judged.is_ok(),
                    "reason": judged.as_ref().err().map(Uncontrolled::as_str),
                    "steps": steps,
                    "class": self.class.name,
                    "result": becomes,
                })
            );
            return judged;
        }
        println!("for {}:", wanted.as_str());
        for step in &steps {
            println!(
                "  {:<8} {}  {}",
                step.question,
                if step.passes { "yes" } else { "NO " },
                step.answer
            );
        }
        match &judged {
            Ok(()) => println!("  controlled"),
            Err(why) => println!("  not controlled ({}): {why}", why.as_str()),
        }
        println!("  class {}: {becomes}", self.class.name);
        judged
    }
}

/// The JSON form of a step.
fn step_row(step: &PolicyStep) -> serde_json::Value {
    serde_json::json!({ "asked": step.question, "answer": step.answer, "passes": step.passes })
}

/// What the filters of the class do with the URL.
fn becomes(wanted: Use, class: &Class, url: &str, controlled: bool) -> String {
    match wanted {
        Use::Media => {
            let request = match (class.requests.media, controlled) {
                (RequestFilterAction::Inline, true) => {
                    "in a request, the gateway fetches it and puts the content in"
                }
                (RequestFilterAction::Strip, _) => "in a request, a note replaces it",
                (RequestFilterAction::Block | RequestFilterAction::Inline, _) => {
                    "a request with it is refused"
                }
            };
            format!("{request}; in an answer, {}", reply(class.answers.fetched, controlled))
        }
        Use::Links => {
            // The response filter has no finding for such a link.
            let stays = controlled || EgressPolicy::is_loopback(url);
            format!("in an answer, {}", reply(class.answers.clicked, stays))
        }
        Use::Tunnel => {
            let call = match (controlled, class.answers.tool_calls) {
                (true, _) => "passes",
                (false, ToolCallAction::Report) => "passes, and is recorded",
                (false, ToolCallAction::Replace) => "is replaced by a text that says why",
                (false, ToolCallAction::Block) => "ends the answer with an error",
            };
            format!(
                "a call of a tool of fetch_tools that names it {call}; agents' own connections are \
                    not filtered yet"
            )
        }
    }
}

/// The effect of a response filter on a URL.
const fn reply(reply: ResponseFilterAction, controlled: bool) -> &'static str {
    match (controlled, reply) {
        (true, _) => "it stays",
        (false, ResponseFilterAction::Report) => "it stays, and is recorded",
        (false, ResponseFilterAction::Strip) => "a mark makes it lead to no host",
        (false, ResponseFilterAction::Block) => "it ends the answer",
    }
}

/// The class of an agent, from the gateway's state.
async fn class_of(place: &GatewayArgs, agent: &AgentName) -> Result<String, Failure> {
    let reply =
        send(place, AdminRequest::Question(Question::Agent { agent: agent.to_string() })).await?;
    for row in &reply.rows {
        if let Some(class) = text(row, "class") {
            return Ok(class.to_owned());
        }
    }
    Ok("default".to_owned())
}
