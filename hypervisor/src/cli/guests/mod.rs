//! What a user wants of a guest, on the command line or in a file, and the files that it is made of.

pub mod command_line;
pub mod demo_disk;
pub mod disk;
pub mod domain_file;
pub mod fit;
pub mod guest;
pub mod image;
pub mod size;
pub mod spec;
pub mod toml_error;
