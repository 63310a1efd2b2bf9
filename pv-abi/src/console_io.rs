//! `console_io` (`xen.h`): the emergency console.

wire_enum! {
    /// An operation (`CONSOLEIO_*`). Arguments: number of bytes, address of the bytes.
    pub struct ConsoleIoOp(u64) {
        /// Writes bytes of the caller's memory to the emergency console. Returns 0.
        WRITE = 0,
        /// Reads what is there; returns the number of bytes.
        READ = 1,
    }
}
