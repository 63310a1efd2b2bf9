use super::*;
use crate::builder::KernelImage;
use crate::builder::bzimage_maker::{
    CODE, PAYLOAD_LENGTH, PAYLOAD_OFFSET, PROTOCOL, SETUP_SECTORS, TAIL, bzimage,
};
use crate::builder::image_maker::Maker;
use std::io::Write;

const ALL: [Compression; 4] = [Compression::Gzip, Compression::Xz, Compression::Zstd, Compression::Lz4];
/// More than any image of these tests has.
const LIMIT: u64 = 1 << 20;

/// As the kernel's build compresses; with lz4 a legacy frame, with xz the filter for x86 code.
fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(6);
            options.prepend_pre_filter(lzma_rust2::filter::FilterType::BcjX86, 0);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        }
        Compression::Lz4 => {
            let frame = lz4_flex::frame::FrameInfo::new().legacy_frame(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// A payload as the kernel's build makes it: the size behind the data, which gzip has there anyway.
fn payload(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut payload = compress(compression, bytes);
    if compression != Compression::Gzip {
        payload.extend((bytes.len() as u32).to_le_bytes());
    }
    payload
}

fn error(file: &[u8]) -> ImageError {
    unpack_at_most(file.to_vec(), LIMIT).unwrap_err()
}

#[test]
fn an_image_is_found_in_every_wrapping() {
    let image = Maker::default().make();
    let unpacked = |file: Vec<u8>| unpack_at_most(file, LIMIT).unwrap();
    assert_eq!(unpacked(image.clone()), image, "no wrapping");
    assert_eq!(unpacked(bzimage(&image)), image, "a bzImage that is not compressed");
    for compression in ALL {
        assert_eq!(unpacked(compress(compression, &image)), image, "{compression}");
        let linux = bzimage(&payload(compression, &image));
        assert_eq!(unpacked(linux.clone()), image, "a bzImage with {compression}");
        assert_eq!(unpacked(compress(compression, &linux)), image, "the same in {compression} once more");
        let mut linux = linux;
        linux[SETUP_SECTORS] = 0;
        linux.splice(CODE * 512..CODE * 512, [0; 2 * 512]);
        assert_eq!(unpacked(linux), image, "no number of sectors means four");
    }
}

/// What the programs make that a kernel's build calls, with its options.
#[test]
fn what_the_usual_programs_compress_is_unpacked() {
    let lines: String = (1..=500).map(|number| format!("{number}\n")).collect();
    for (compression, data) in fixtures() {
        assert_eq!(Format::of(&data), Format::Compressed(compression));
        let unpacked = compression.unpack(&data, LIMIT).unwrap();
        assert!(unpacked == lines.as_bytes(), "{compression}: {:?}", String::from_utf8_lossy(&unpacked));
    }
}

fn fixtures() -> [(Compression, Vec<u8>); 5] {
    [
        (Compression::Gzip, include_str!("../../../tests/fixtures/compressed/gz.hex")),
        (Compression::Xz, XZ),
        (Compression::Zstd, include_str!("../../../tests/fixtures/compressed/zst.hex")),
        (Compression::Lz4, include_str!("../../../tests/fixtures/compressed/legacy.lz4.hex")),
        (Compression::Lz4, include_str!("../../../tests/fixtures/compressed/lz4.hex")),
    ]
    .map(|(compression, fixture)| (compression, bytes_of(fixture)))
}

const XZ: &str = include_str!("../../../tests/fixtures/compressed/xz.hex");

fn bytes_of(fixture: &str) -> Vec<u8> {
    let digits: String = fixture.lines().filter(|line| !line.starts_with('#')).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.as_bytes().chunks(2).map(byte).collect()
}

/// Whatever the data would unpack to, no more than the limit is ever there.
#[test]
fn no_more_is_unpacked_than_the_limit() {
    let zeros = vec![0; 8 << 20];
    for compression in ALL {
        let bomb = compress(compression, &zeros);
        assert_eq!(compression.read(&bomb, 1000).unwrap(), &zeros[..1000], "{compression}");
        let refused = ImageError::UnpacksToMore { compression, limit: LIMIT };
        assert_eq!(error(&bomb), refused);
        assert_eq!(error(&bzimage(&payload(compression, &zeros))), refused, "it even says so");
        assert_eq!(compression.unpack(&bomb, zeros.len() as u64).unwrap().len(), zeros.len());
    }
    let told = ImageError::UnpacksToMore { compression: Compression::Xz, limit: MAX_UNPACKED };
    assert_eq!(told.to_string(), "its xz data unpacks to more than 512 MiB");
}

#[test]
fn a_payload_has_the_size_that_it_declares() {
    let image = Maker::default().make();
    let size = image.len() as u64;
    for compression in ALL {
        for declared in [0, 1, size - 1, size + 1, LIMIT] {
            let mut lie = payload(compression, &image);
            let end = lie.len();
            lie[end - 4..].copy_from_slice(&(declared as u32).to_le_bytes());
            let error = error(&bzimage(&lie));
            match compression {
                // Its own checksum comes with the size, and is looked at first where both are read.
                Compression::Gzip if declared >= size => {
                    assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
                }
                _ if declared < size => {
                    assert_eq!(error, ImageError::UnpacksToMoreThanDeclared { declared });
                }
                _ => assert_eq!(error, ImageError::UnpacksToLess { declared, unpacked: size }),
            }
        }
    }
}

/// A window costs memory before there is a byte to put into it.
#[test]
fn a_decoder_gets_so_much_memory_and_no_more() {
    // A block that repeats a byte, in a frame without any options but its window: 2^(10 + n) bytes.
    let zstd = |n: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0, n << 3], &[5 << 3 | 0b011, 0, 0, b'a'][..]].concat();
    assert_eq!(Compression::Zstd.unpack(&zstd(17), LIMIT).unwrap(), b"aaaaa");
    assert!(matches!(Compression::Zstd.unpack(&zstd(18), LIMIT), Err(ImageError::Damaged { .. })));
    // The dictionary's size is the last property of the last filter in a block's header, which has a checksum.
    let xz = |size: u8| {
        let mut data = bytes_of(XZ);
        let block = &mut data[12..];
        let (end, at) = ((usize::from(block[0]) + 1) * 4 - 4, 2 + 2 + 2);
        assert_eq!(block[at - 2..=at], [0x21, 1, 26], "LZMA2, with 32 MiB");
        block[at] = size;
        let mut checksum = flate2::Crc::new();
        checksum.update(&block[..end]);
        block[end..end + 4].copy_from_slice(&checksum.sum().to_le_bytes());
        data
    };
    assert!(Compression::Xz.unpack(&xz(30), LIMIT).is_ok(), "128 MiB");
    for size in [31, 32, 40] {
        let error = Compression::Xz.unpack(&xz(size), LIMIT).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}

#[test]
fn a_wrong_checksum_is_found() {
    for compression in [Compression::Gzip, Compression::Xz, Compression::Zstd] {
        let image = Maker::default().make();
        let wrong = (0..compress(compression, &image).len()).filter(|&at| {
            let mut data = compress(compression, &image);
            data[at] ^= 0x10;
            matches!(compression.unpack(&data, LIMIT), Ok(unpacked) if unpacked != image)
        });
        assert_eq!(wrong.collect::<Vec<_>>(), [0; 0], "{compression}: a changed byte that changes the image");
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let of = |payload: &[u8]| error(&bzimage(payload)).to_string();
    let unsupported = |name| {
        format!("compressed with {name}, which is not supported; gzip, xz, zstd, lz4 and no compression are")
    };
    assert_eq!(of(b"BZh91AY"), unsupported("bzip2"));
    assert_eq!(of(b"\x5d\0\0\x80\0"), unsupported("lzma"));
    assert_eq!(of(b"\x89LZO\0\r\n"), unsupported("lzo"));
    let unknown = "a bzImage whose payload is neither compressed in a known way nor an ELF image";
    for payload in [&b""[..], b"\x1f", b"MZ", b"garbage"] {
        assert_eq!(of(payload), unknown);
    }
    let mut old = bzimage(b"");
    old[PROTOCOL..][..2].copy_from_slice(&0x207_u16.to_le_bytes());
    let told = "a bzImage of boot protocol 2.07: 2.08 is needed, as Linux has since 2.6.26";
    assert_eq!(error(&old).to_string(), told);

    let parse = |file: Vec<u8>| KernelImage::parse(&file).unwrap_err().to_string();
    let needed = "; an ELF image or a bzImage is needed, for x86-64 and with Xen notes";
    let at = |at: usize, magic: &[u8]| [&vec![0; at][..], magic, &[0; 100]].concat();
    for (file, what) in [
        (at(56, b"ARM\x64"), "a Linux image for ARM64"),
        (at(36, b"\x18\x28\x6f\x01"), "a zImage, Linux for ARM"),
        (at(0, b"MZ\0\0zimg"), "an EFI zboot image"),
        (at(0, b"MZ\x90"), "an EFI executable that is no bzImage"),
        (at(0, b"070701"), "a ramdisk (cpio)"),
        (at(0, b"QFI\xfb"), "a qcow2 image, for a disk"),
        (at(0, b"\0"), "of no known format"),
    ] {
        assert_eq!(parse(file), format!("it is {what}{needed}"));
    }
    assert_eq!(parse(at(0, b"BZh9")), unsupported("bzip2"));
    let twice = |compression| compress(compression, &compress(compression, b"\x7fELF"));
    for compression in ALL {
        let unpacked = unpack_at_most(twice(compression), LIMIT).unwrap();
        assert!(parse(unpacked).starts_with(&format!("it is {compression} data, in more than one layer")));
    }
}

#[test]
fn every_truncation_of_a_bzimage_is_refused() {
    for compression in ALL {
        let file = bzimage(&payload(compression, &Maker::default().make()));
        for length in PROTOCOL..file.len() - TAIL {
            let error = error(&file[..length]);
            assert!(matches!(error, ImageError::Truncated { .. }), "{compression}, {length} bytes: {error}");
        }
    }
    for (offset, length) in [(u32::MAX, 0), (0, u32::MAX), (u32::MAX, u32::MAX), (0x1000, 1)] {
        let mut file = bzimage(&payload(Compression::Lz4, &Maker::default().make()));
        file[PAYLOAD_OFFSET..][..4].copy_from_slice(&offset.to_le_bytes());
        file[PAYLOAD_LENGTH..][..4].copy_from_slice(&length.to_le_bytes());
        let error = error(&file);
        assert!(matches!(error, ImageError::Truncated { .. }), "{offset:#x}, {length:#x}: {error}");
    }
}

/// A generator of numbers that are the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

/// Whatever is done to compressed data and bzImages, they unpack to no more than the limit, or are refused with one line;
/// no decoder panics.
#[test]
fn no_mutation_of_compressed_data_does_harm() {
    const EDGES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
    const LIMIT: u64 = 1 << 16;
    const ROUNDS: usize = 10_000;
    let image = Maker::default().make();
    let mut numbers = Numbers(0x9a7a_7a9e);
    for compression in ALL {
        let mut originals = vec![compress(compression, &image), bzimage(&payload(compression, &image))];
        originals.extend(fixtures().into_iter().filter(|(of, _)| *of == compression).map(|(_, data)| data));
        let (mut fine, mut refused) = (0, 0);
        for _ in 0..ROUNDS {
            let original = &originals[numbers.below(originals.len())];
            let mut file = original.clone();
            for _ in 0..=numbers.below(4) {
                // Half of them in the first and last bytes, where sizes and checksums are.
                let at = match numbers.below(4) {
                    0 => numbers.below(file.len().min(32)),
                    1 => file.len() - 1 - numbers.below(file.len().min(32)),
                    _ => numbers.below(file.len()),
                };
                file[at] = match numbers.below(2) {
                    0 => file[at] ^ (1 << numbers.below(8)),
                    _ => EDGES[numbers.below(EDGES.len())],
                };
            }
            if numbers.below(10) == 0 {
                file.truncate(numbers.below(original.len() + 1));
            }
            match unpack_at_most(file, LIMIT) {
                Ok(unpacked) => {
                    assert!(unpacked.len() as u64 <= LIMIT);
                    fine += 1;
                }
                Err(error) => {
                    let line = error.to_string();
                    assert!(!line.contains(char::is_control), "{line:?}");
                    refused += 1;
                }
            }
        }
        assert!(
            fine > ROUNDS / 100 && refused > ROUNDS / 10,
            "{compression}: {fine} fine, {refused} refused"
        );
    }
}

#[test]
fn the_first_protocol_that_tells_of_the_payload_will_do() {
    let image = Maker::default().make();
    let mut linux = bzimage(&image);
    linux[PROTOCOL..][..2].copy_from_slice(&0x208_u16.to_le_bytes());
    assert_eq!(unpack_at_most(linux, LIMIT).unwrap(), image);
}
