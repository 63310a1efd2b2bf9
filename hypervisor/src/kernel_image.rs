//! The bundled guest kernel, as the build script made it.

#[repr(C, align(4096))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("KERNEL_IMAGE_PATH")));

/// The ELF image, aligned like a page so that its tables can be read in place.
pub static KERNEL_IMAGE: &[u8] = &ALIGNED.0;
