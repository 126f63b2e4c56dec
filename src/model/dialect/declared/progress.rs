//! Reads usage, errors and the end of a stream of a declared route.

use crate::model::dialect::length::text_length;
use crate::model::dialect::read_usage;
use crate::model::event::StreamEvent;
use crate::model::progress::Progress;
use crate::model::values::Values as _;

/// The answer counts as one choice.
const CHOICE: u64 = 0;

/// Reads an event into `progress`.
pub(in crate::model::dialect) fn read(progress: &mut Progress, event: &StreamEvent<'_>) {
    progress.ended |= event.is_done();
    // Servers outside of the dialects end a stream in different ways. So a stream is complete
    // wherever its connection ends in order, and a cut one shows at the connection.
    progress.begin(CHOICE);
    progress.finish(CHOICE);
    let Some(data) = event.tree() else { return };
    progress.text += text_length(data, data.root());
    let (mut reported, mut error) = (None, false);
    data.members(data.root(), |name, value| match name {
        b"usage" => reported = Some(value),
        b"error" => error = data.raw(value).trim_ascii() != b"null",
        _ => {}
    });
    progress.failed |= error;
    if let Some(usage) = reported.and_then(|usage| read_usage(data.raw(usage))) {
        progress.report(usage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::framing::sse::EventLines;
    use crate::model::tree::TreeMemory;
    use crate::model::usage::Usage;

    fn progress(events: &[&str]) -> Progress {
        let mut progress = Progress::default();
        for data in events {
            let event = format!("data: {data}\n\n");
            let lines = EventLines::read(event.as_bytes());
            read(&mut progress, &StreamEvent::read(&lines, TreeMemory::default()));
        }
        progress
    }

    #[test]
    fn any_end_completes_a_stream() {
        let piece = r#"{"token":{"text":"four"},"generated_text":null}"#;
        assert!(!progress(&[]).is_complete());
        let some = progress(&[piece]);
        assert!(some.is_complete() && !some.ended && !some.failed);
        assert_eq!(some.text, 4);
        assert!(progress(&[piece, "[DONE]"]).ended);
        assert!(progress(&[r#"{"error":"out of memory","error_type":"generation"}"#]).failed);
        let used = progress(&[r#"{"usage":{"prompt_tokens":3,"completion_tokens":5}}"#]);
        assert_eq!(used.usage, Some(Usage { input: 3, output: 5, reasoning: 0 }));
    }
}
