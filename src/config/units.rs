//! Durations and sizes with their units.

use std::time::Duration;

/// Reads `250ms`, `10s`, `5m`, `1h`, `30d`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // An overflow is a fault of the config, so that a long time never becomes a short one.
    Some(Duration::from_millis(number.checked_mul(ms)?))
}

/// Reads `512B`, `64KiB`, `32MiB`, `1GiB`.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Splits a text into its leading number and its unit.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    // A space before the unit is allowed, a sign or a fraction is not.
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_required() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("30d"), Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(bytes("64KiB"), Some(65_536));
        for wrong in ["10", "s", "-1s", "1.5s", "1 year", "99999999999999999999s", ""] {
            assert_eq!((duration(wrong), bytes(wrong)), (None, None), "{wrong}");
        }
    }
}
