//! Answers of declared routes that are no JSON and no stream: sounds, images, plain texts.

use crate::guard::egress::answer::ResponseFilters;
use crate::model::declared::AnswerKind;
use crate::model::usage::Heard;
use crate::proxy::Gateway;
use crate::proxy::answer::{Answer, ArrivingAnswer};
use crate::proxy::exchange::Exchange;
use crate::proxy::filtered::plain_text;
use crate::proxy::watch::RevocationWatcher;
use crate::refusal::{Code, Refusal};

impl Gateway {
    /// Reads the answer of a declared route that is no JSON and no stream.
    ///
    /// # Errors
    /// As [`Self::call`], after the head.
    pub(super) async fn unparsed(
        &self,
        kind: AnswerKind,
        arriving: ArrivingAnswer,
        filter: ResponseFilters,
        mut watch: RevocationWatcher,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        let ArrivingAnswer { body, parts, extent, .. } = arriving;
        let bytes = self.collected(body, extent, &mut watch, exchange).await?;
        let text = if kind == AnswerKind::Text { bytes.len() as u64 } else { 0 };
        exchange.heard(Heard { usage: None, text, since_usage: 0, complete: true });
        let bytes = match kind {
            AnswerKind::Text => plain_text(bytes, parts.status, filter, exchange).await?,
            AnswerKind::Json
            | AnswerKind::Events
            | AnswerKind::Audio
            | AnswerKind::Image
            | AnswerKind::Bytes => {
                // Sounds and images are not filtered, but a secret of the gateway is found.
                if exchange.config.redactor.has_secret(&bytes) {
                    return Err(Refusal::new(Code::UpstreamInvalid)
                        .because("the answer has a credential of the gateway"));
                }
                bytes
            }
        };
        Ok(Answer::Whole(parts, bytes))
    }
}
