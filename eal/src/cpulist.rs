//! The kernel's and DPDK's lists of numbers: `0-3,5`.

/// Most lcores and CPUs that there can be, and one more than the highest number.
pub(crate) const MAX_CPUS: u32 = rustix::thread::CpuSet::MAX_CPU as u32;

/// Reads `0-3,5`; a range may run backwards. Sorted, each number once.
///
/// # Errors
/// A message that names the part that is none, or a number beyond [`MAX_CPUS`].
pub(crate) fn parse(text: &str) -> Result<Vec<u32>, String> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (number(low, part)?, number(high, part)?);
        numbers.extend(low.min(high)..=low.max(high));
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

fn number(text: &str, part: &str) -> Result<u32, String> {
    let text = text.trim();
    // `u32::from_str` also takes a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(number) if digits && number < MAX_CPUS => Ok(number),
        _ => Err(format!("'{part}' is no number below {MAX_CPUS} nor a range of such")),
    }
}

/// Writes sorted numbers as `0-3,5`.
pub(crate) fn format(numbers: &[u32]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for run in numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        match run {
            [one] => parts.push(one.to_string()),
            [first, .., last] => parts.push(format!("{first}-{last}")),
            [] => {}
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, numbers, canonical) in [
            ("0", vec![0], "0"),
            ("0-3,5", vec![0, 1, 2, 3, 5], "0-3,5"),
            ("7,5-6,1,1", vec![1, 5, 6, 7], "1,5-7"),
            ("3-1", vec![1, 2, 3], "1-3"),
            (" 2 , 4 ", vec![2, 4], "2,4"),
            ("1023", vec![1023], "1023"),
        ] {
            assert_eq!(parse(text).unwrap(), numbers, "{text}");
            assert_eq!(format(&numbers), canonical);
        }
        for text in ["", ",", "1,", "-1", "1-", "a", "+1", "1-2-3", "1024", "0-4294967295", "1 2"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
