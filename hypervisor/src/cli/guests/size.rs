//! Amounts of memory on the command line.

use hypervisor::builder::{Amount, MAX_PAGES};
use hypervisor::machine::kvm::MOST_FRAMES;
use pv_abi::{PAGE_SHIFT, PAGE_SIZE};

/// Reads the memory of a domain: see [`parse_up_to`].
pub fn parse(text: &str) -> Result<Amount, String> {
    parse_up_to(text, MAX_PAGES)
}

/// Reads the memory of a machine, which ends below the doorbells.
pub fn parse_machine(text: &str) -> Result<Amount, String> {
    parse_up_to(text, MOST_FRAMES)
}

/// Reads a number with a unit: K, M, G or T, powers of 1024. The result is whole pages, one at least.
///
/// A number without a unit is refused: some tools mean bytes by it, others mebibytes.
fn parse_up_to(text: &str, most: u64) -> Result<Amount, String> {
    let (number, factor) = match split(text) {
        ("", _) => return Err("a number with a unit is needed, such as 256M or 1G".into()),
        (number, Some(1)) => return Err(format!("a unit is needed: {number}M, say")),
        (_, None) => return Err("the unit must be one of K, M, G, T".into()),
        (number, Some(factor)) => (number, factor),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let pages = bytes.map(|bytes| bytes >> PAGE_SHIFT).filter(|&pages| pages <= most);
    let range = || format!("it must be from {} to {}", Amount(1), Amount(most));
    let (Some(bytes), Some(pages)) = (bytes, pages) else { return Err(range()) };
    match bytes.is_multiple_of(PAGE_SIZE as u64) {
        _ if bytes == 0 => Err(range()),
        true => Ok(Amount(pages)),
        false => Err("it must be a multiple of 4K, the size of a page".into()),
    }
}

/// A number's digits, and what its unit stands for: a power of 1024, 1 where there is none, and nothing where it
/// is unknown.
pub fn split(text: &str) -> (&str, Option<u64>) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => Some(1),
        "K" | "k" => Some(1 << 10),
        "M" | "m" => Some(1 << 20),
        "G" | "g" => Some(1 << 30),
        "T" | "t" => Some(1 << 40),
        _ => None,
    };
    (number, factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!(parse("4K"), Ok(Amount(1)));
        assert_eq!(parse("256M"), Ok(Amount(65_536)));
        assert_eq!(parse("1g"), Ok(Amount(262_144)));
        assert_eq!(parse("1T"), Ok(Amount(MAX_PAGES)));
    }

    #[test]
    fn what_is_no_size_says_why() {
        for (text, reason) in [
            ("", "number with a unit"),
            ("M", "number with a unit"),
            ("-1M", "number with a unit"),
            ("128", "128M, say"),
            ("1.5G", "one of K, M, G, T"),
            ("128MB", "one of K, M, G, T"),
            ("0M", "from 4 KiB to 1 TiB"),
            ("5K", "multiple of 4K"),
            ("2T", "from 4 KiB to 1 TiB"),
            ("99999999999999999999G", "from 4 KiB to 1 TiB"),
            ("18446744073709551615G", "from 4 KiB to 1 TiB"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    /// A machine ends below its doorbells.
    #[test]
    fn a_machine_has_a_most_of_its_own() {
        assert_eq!(parse_machine("1048575M"), Ok(Amount(1_048_575 << 8)));
        let error = parse_machine("1T").unwrap_err();
        assert_eq!(error, format!("it must be from 4 KiB to {}", Amount(MOST_FRAMES)));
    }
}
