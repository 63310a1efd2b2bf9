//! Error numbers (`errno.h`). A hypercall returns one negated, as a signed 64-bit value.

use core::fmt;

macro_rules! errno {
    ($(#[$meta:meta])* pub struct $type:ident($repr:ty) { $($name:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type($repr);

        impl $type {
            $(#[doc = $text] pub const $name: Self = Self($value);)*

            /// Its name in Xen's headers, without the `XEN_`.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($value => Some(stringify!($name)),)* _ => None }
            }

            /// The error of that name, without the `XEN_`.
            pub fn from_name(name: &[u8]) -> Option<Self> {
                $(if name == stringify!($name).as_bytes() { return Some(Self($value)); })*
                None
            }

            /// What it means, in a few words.
            pub const fn text(self) -> &'static str {
                match self.0 { $($value => $text,)* _ => "unknown error" }
            }
        }
    };
}

errno! {
    /// An error number (`XEN_*`), positive.
    pub struct Errno(u16) {
        EPERM = 1, "operation not permitted";
        ENOENT = 2, "no such entry";
        ESRCH = 3, "no such domain";
        EIO = 5, "input/output error";
        ENXIO = 6, "no such device or address";
        E2BIG = 7, "argument list too long";
        ENOEXEC = 8, "not an executable";
        EBADF = 9, "bad descriptor";
        EAGAIN = 11, "try again";
        ENOMEM = 12, "out of memory";
        EACCES = 13, "access denied";
        EFAULT = 14, "bad guest address";
        EBUSY = 16, "busy";
        EEXIST = 17, "exists already";
        ENODEV = 19, "no such device";
        EISDIR = 21, "is a directory";
        EINVAL = 22, "invalid argument";
        ENOSPC = 28, "no space";
        EROFS = 30, "read-only";
        ERANGE = 34, "out of range";
        ENOSYS = 38, "not implemented";
        ENOTEMPTY = 39, "not empty";
        ENODATA = 61, "no data";
        ETIME = 62, "time is over";
        EOVERFLOW = 75, "value too large";
        EOPNOTSUPP = 95, "not supported";
        EISCONN = 106, "connected already";
    }
}

impl Errno {
    /// The error's number, as it stands in Xen's header: above 0.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// What a hypercall leaves in RAX to report this.
    pub const fn to_return(self) -> u64 {
        (self.0 as u64).wrapping_neg()
    }

    /// Reads a hypercall's return value: the value where it is no error.
    ///
    /// # Errors
    /// The error number where the value lies in -4095..=-1 (`XEN_ERR` range).
    pub const fn from_return(value: u64) -> Result<u64, Self> {
        match value as i64 {
            error @ -4095..=-1 => Err(Self(error.unsigned_abs() as u16)),
            _ => Ok(value),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
