//! Sizes of extended state.

use super::Registers;

/// The legacy region and the header.
const FIRST: u32 = 512 + 64;
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 0xe0;

/// The components that can be on together: x87 and SSE always, AVX-512 whole, and with AVX only.
pub fn consistent(components: u64) -> u64 {
    if components & 3 != 3 {
        return 0;
    }
    let whole = components & AVX != 0 && components & AVX_512 == AVX_512;
    if whole { components } else { components & !AVX_512 }
}

/// Bytes of an image with these components (number, and leaf 0xd of it): EAX is the size, EBX the place.
pub fn size(components: &[(u32, Registers)]) -> u32 {
    let ends = components.iter().map(|(_, [size, place, ..])| place.saturating_add(*size));
    ends.fold(FIRST, u32::max)
}

/// Bytes of a compact image: one component behind the other, on a boundary of 64 where bit 1 of ECX asks for that.
pub fn compact_size(components: &[(u32, Registers)]) -> u32 {
    components.iter().fold(FIRST, |end, (_, [size, _, flags, _])| {
        let start = if flags & 1 << 1 != 0 { end.next_multiple_of(64) } else { end };
        start.saturating_add(*size)
    })
}
