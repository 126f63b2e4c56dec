//! The head of an upstream's answer, and the form of its body. Only known parts are forwarded.
//!
//! Servers label answers differently: JSON comes as `text/plain`, and a proxy in front of the
//! server writes its errors in HTML. Where the media type does not tell the form of the body, its
//! first bytes do.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER};

use crate::model::framing::Framing;
use crate::proxy::JSON;
use crate::proxy::forward::broke;
use crate::proxy::media_type::essence;
use crate::proxy::pool::Arriving;
use crate::proxy::times::Times;
use crate::refusal::{Code, Refusal};

/// Characters of an unknown media type that are reported to operators.
const MEDIA_TYPE_TOLD: usize = 80;

/// The first bytes that tell the form of a body: those of the longest field name of an event.
const TELLING: usize = 6;

/// The most bytes of white space before a body, after which its form counts as unknown.
const SPACE_MAX: usize = 64 << 10;

/// The form of an upstream's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerForm {
    /// One JSON document.
    Json,
    /// A stream in the framing of the dialect.
    Events,
    /// The media type does not say it: the body is read first.
    Unknown,
    /// An error in no form that is forwarded.
    Opaque,
}

impl AnswerForm {
    /// The media type of the caller's answer. `framing` is the one of the dialect's streams.
    #[must_use]
    pub const fn content_type(self, framing: Framing) -> HeaderValue {
        match self {
            Self::Events => HeaderValue::from_static(framing.media_type()),
            // The gateway replaces an opaque body by its own JSON.
            Self::Json | Self::Unknown | Self::Opaque => HeaderValue::from_static(JSON),
        }
    }
}

/// The parts of an answer's head that are forwarded to the caller.
#[derive(Debug)]
pub struct AnswerHead {
    /// The HTTP status.
    pub status: u16,
    /// The form of the body.
    pub form: AnswerForm,
    /// The media type, for operators. Without parameters, and limited.
    pub media_type: String,
    /// The value of `Retry-After`, if it is valid.
    pub retry_after: Option<HeaderValue>,
}

/// The refusal for an answer that does not have the required form.
fn invalid(what: impl fmt::Display) -> Refusal {
    Refusal::new(Code::UpstreamInvalid).because(what)
}

/// Checks the head of an upstream's answer. `framing` is the one of the dialect's streams.
///
/// # Errors
/// `upstream-credential` for 401, 403 and 407, because they concern the gateway's credential and
/// not the caller. `upstream-invalid` for redirects, upgrades and encoded bodies.
pub fn check_response_head(
    status: u16,
    headers: &HeaderMap,
    framing: Framing,
) -> Result<AnswerHead, Refusal> {
    match status {
        200..=299 | 400 | 402 | 404..=406 | 408..=499 | 500..=599 => {}
        401 | 403 | 407 => {
            return Err(
                Refusal::new(Code::UpstreamCredential).because(format_args!("status {status}"))
            );
        }
        _ => return Err(invalid(format_args!("status {status}"))),
    }
    let encoded = match headers.get(CONTENT_ENCODING) {
        Some(coding) => {
            let coding = coding.as_bytes().trim_ascii();
            !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
        }
        None => false,
    };
    if encoded && status < 400 {
        return Err(invalid("the answer is encoded though identity was asked for"));
    }
    // The gateway writes the media type itself. A parameter of the server could declare an encoding
    // that the filters did not read.
    let media_type = match headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        Some(text) => essence(text),
        None => String::new(),
    };
    let form = match media_type.as_str() {
        // An error of a proxy may be compressed although identity was asked for.
        _ if encoded => AnswerForm::Opaque,
        JSON => AnswerForm::Json,
        stream if stream == framing.media_type() && status < 300 => AnswerForm::Events,
        _ => AnswerForm::Unknown,
    };
    let retry_after = match headers.get(RETRY_AFTER) {
        Some(value) if is_wait(value) => Some(value.clone()),
        Some(_) | None => None,
    };
    // This is text of the server, and goes to a log line.
    let media_type =
        media_type.chars().filter(|letter| !letter.is_control()).take(MEDIA_TYPE_TOLD).collect();
    Ok(AnswerHead { status, form, media_type, retry_after })
}

/// Finds the form of a body whose media type does not say it, from its first bytes. The bytes stay
/// unread. A success is JSON or events; an error in another form is [`AnswerForm::Opaque`].
///
/// # Errors
/// `upstream-invalid` for a success in another form. `upstream-slow`, `truncated` as for any body.
pub async fn form_of(
    head: &AnswerHead,
    body: &mut Arriving,
    framing: Framing,
    times: &Times,
) -> Result<AnswerForm, Refusal> {
    let mut begun = Vec::new();
    let mut frames: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while begun.len() < TELLING && length <= SPACE_MAX {
        let Ok(frame) = tokio::time::timeout(times.patience(), body.frame()).await else {
            return Err(Refusal::new(Code::UpstreamSlow).because("timeout stream_idle or total"));
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|error| broke(&error))?.into_data() else { continue };
        length += data.len();
        begun.extend_from_slice(if begun.is_empty() { data.trim_ascii_start() } else { &data });
        frames.push(data);
    }
    // The filters and limits apply to these bytes too.
    body.unread(match frames.as_slice() {
        [only] => only.clone(),
        _ => Bytes::from(frames.concat()),
    });
    match form_from(&begun) {
        AnswerForm::Json => Ok(AnswerForm::Json),
        // Only a success streams, and lines of JSON begin as a document does.
        AnswerForm::Events if head.status < 300 && framing == Framing::Events => {
            Ok(AnswerForm::Events)
        }
        AnswerForm::Events | AnswerForm::Unknown | AnswerForm::Opaque if head.status >= 400 => {
            Ok(AnswerForm::Opaque)
        }
        AnswerForm::Events | AnswerForm::Unknown | AnswerForm::Opaque => {
            Err(invalid(format_args!(
                "a body that is neither JSON nor events, of the media type {:?}",
                head.media_type
            )))
        }
    }
}

/// The form of a body that begins with these bytes, after white space.
fn form_from(begun: &[u8]) -> AnswerForm {
    let fields: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];
    if matches!(begun.first(), Some(b'{' | b'[')) {
        AnswerForm::Json
    } else if fields.iter().any(|field| begun.starts_with(field)) {
        AnswerForm::Events
    } else {
        AnswerForm::Opaque
    }
}

/// Whether the text is a decimal number of `length` digits.
fn is_number(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a value of `Retry-After` is valid: seconds, or a date in the preferred form of RFC 9110
/// section 5.6.7. Any other value could leak data, such as a credential.
fn is_wait(value: &HeaderValue) -> bool {
    const SECONDS_MAX: usize = 9;
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Ok(text) = value.to_str() else { return false };
    if !text.is_empty() && text.len() <= SECONDS_MAX && is_number(text, text.len()) {
        return true;
    }
    let parts: Vec<&str> = text.split(' ').collect();
    let [day, date, month, year, time, "GMT"] = parts.as_slice() else { return false };
    let Some(day) = day.strip_suffix(',') else { return false };
    let clock: Vec<&str> = time.split(':').collect();
    DAYS.contains(&day)
        && is_number(date, 2)
        && MONTHS.contains(month)
        && is_number(year, 4)
        && clock.len() == 3
        && clock.iter().all(|part| is_number(part, 2))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn head(status: u16, headers: &[(&'static str, &'static str)]) -> Result<AnswerHead, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        check_response_head(status, &map, Framing::Events)
    }

    #[track_caller]
    fn passes(status: u16, headers: &[(&'static str, &'static str)], expect: AnswerForm) {
        assert_eq!(head(status, headers).expect("it passes").form, expect);
    }

    #[track_caller]
    fn refused(status: u16, headers: &[(&'static str, &'static str)], expect: Code) {
        assert_eq!(head(status, headers).expect_err("refused").code, expect);
    }

    #[test]
    fn only_a_time_to_wait_is_passed_on_as_one() {
        for (wrote, passes) in [
            ("0", true),
            ("120", true),
            ("Wed, 21 Oct 2015 07:28:00 GMT", true),
            ("sk-canary-0123456789", false),
            ("1234567890123456", false),
            ("10.0.0.5:8000", false),
            ("Wed, 21 Oct 2015 07:28:00 GMT sk-canary", false),
            ("", false),
            ("-1", false),
        ] {
            assert_eq!(is_wait(&HeaderValue::from_static(wrote)), passes, "{wrote:?}");
        }
    }

    #[test]
    fn only_known_answers_pass() {
        let json = [("content-type", "Application/JSON; charset=utf-16le")];
        passes(200, &json, AnswerForm::Json);
        passes(200, &[("content-type", "text/event-stream;x=y")], AnswerForm::Events);
        passes(400, &json, AnswerForm::Json);
        passes(500, &json, AnswerForm::Json);
        refused(401, &json, Code::UpstreamCredential);
        refused(403, &json, Code::UpstreamCredential);
        refused(302, &json, Code::UpstreamInvalid);
        refused(101, &json, Code::UpstreamInvalid);
        passes(200, &[("content-type", "text/html")], AnswerForm::Unknown);
        passes(200, &[], AnswerForm::Unknown);
        passes(413, &[("content-type", "text/html")], AnswerForm::Unknown);
        passes(500, &[("content-type", "text/event-stream")], AnswerForm::Unknown);
        let encoded = [("content-type", "application/json"), ("content-encoding", "gzip")];
        refused(200, &encoded, Code::UpstreamInvalid);
        passes(502, &encoded, AnswerForm::Opaque);
    }

    #[test]
    fn the_first_bytes_tell_the_form() {
        for (begun, expect) in [
            ("{\"a\":1}", AnswerForm::Json),
            ("[]", AnswerForm::Json),
            ("data: {}", AnswerForm::Events),
            (": ping", AnswerForm::Events),
            ("event: message_start", AnswerForm::Events),
            ("<html>", AnswerForm::Opaque),
            ("database is down", AnswerForm::Opaque),
            ("", AnswerForm::Opaque),
        ] {
            assert_eq!(form_from(begun.as_bytes()), expect, "{begun}");
        }
    }
}
