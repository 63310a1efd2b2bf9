//! Makes bzImages for tests: a setup header, and a payload that is whatever the test puts there.

/// The first sector of the protected-mode code, and the payload's place in it.
pub const CODE: usize = 3;
pub const PAYLOAD: usize = 0x40;

/// Fields of the setup header, as offsets in the file.
pub const SETUP_SECTORS: usize = 0x1f1;
pub const MAGIC: usize = 0x202;
pub const PROTOCOL: usize = 0x206;
pub const PAYLOAD_OFFSET: usize = 0x248;
pub const PAYLOAD_LENGTH: usize = 0x24c;

/// Bytes behind the payload.
pub const TAIL: usize = 100;

/// A bzImage with this payload. The size of what is unpacked from it, which is a payload's end, is the caller's affair.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; CODE * 512 + PAYLOAD];
    file[..2].copy_from_slice(b"MZ");
    file[SETUP_SECTORS] = CODE as u8 - 1;
    file[MAGIC..PROTOCOL].copy_from_slice(b"HdrS");
    file[PROTOCOL..][..2].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[PAYLOAD_OFFSET..][..4].copy_from_slice(&(PAYLOAD as u32).to_le_bytes());
    file[PAYLOAD_LENGTH..][..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file.extend([0x90; TAIL]);
    file
}
