//! The kernel that is to be booted.

use super::spec::Spec;
use crate::cli::files;
use crate::cli::status::Failure;
use hypervisor::builder::{KernelImage, Plan, PlanError, Wishes, unpack};
use std::borrow::Cow;

/// The bytes of everything that goes into a domain.
pub struct Images {
    /// What to call the kernel in messages.
    name: String,
    kernel: Cow<'static, [u8]>,
    ramdisk: Option<(String, Vec<u8>)>,
}

impl Images {
    /// Reads the kernel, unpacked, and the ramdisk. Without a path it is the bundled kernel.
    pub fn read(spec: &Spec) -> Result<Self, Failure> {
        let (name, kernel) = match &spec.kernel {
            Some(path) => {
                let unpacked = unpack(files::read(path)?);
                let kernel = unpacked.map_err(|error| Failure::about(path.display(), error))?;
                (path.display().to_string(), kernel.into())
            }
            None => ("the bundled kernel".into(), hypervisor::kernel_image::KERNEL_IMAGE.into()),
        };
        let ramdisk = match &spec.ramdisk {
            Some(path) => Some((path.display().to_string(), files::read(path)?)),
            None => None,
        };
        Ok(Self { name, kernel, ramdisk })
    }

    /// What to call the kernel in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel image, its headers and notes read and checked.
    pub fn kernel(&self) -> Result<KernelImage<'_>, Failure> {
        KernelImage::parse(&self.kernel).map_err(|error| Failure::about(&self.name, error))
    }

    /// The bytes of its image, unpacked.
    pub fn kernel_bytes(&self) -> &[u8] {
        &self.kernel
    }

    /// The ramdisk's bytes; none where there is none.
    pub fn ramdisk(&self) -> &[u8] {
        self.ramdisk.as_ref().map_or(&[], |(_, bytes)| bytes)
    }

    /// Plans the domain of `spec`. An error names the file or the setting that does not fit.
    pub fn plan(&self, image: &KernelImage<'_>, spec: &Spec, command_line: String) -> Result<Plan, Failure> {
        let ramdisk = self.ramdisk.as_ref().map(|(_, bytes)| bytes.len() as u64);
        let wishes = Wishes { pages: spec.memory.0, ramdisk, command_line };
        Plan::new(image, &wishes).map_err(|error| match (&error, &self.ramdisk) {
            (PlanError::RamdiskTooBig { .. }, Some((name, _))) => Failure::about(name, error),
            (PlanError::AddressRange { .. } | PlanError::MemoryTooSmall { .. }, _) => {
                Failure::about(&self.name, error)
            }
            (PlanError::CommandLineTooLong { .. }, _) => {
                let setting = match spec.is_bundled() {
                    true => spec.origin.settings("cmdline", "exec"),
                    false => spec.origin.setting("cmdline"),
                };
                Failure::about(setting, error)
            }
            _ => Failure::new(error),
        })
    }
}
