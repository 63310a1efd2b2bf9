//! Ending the domain.

use pv_abi::Errno;
use pv_abi::extension::ExtensionFeatures;
use pv_abi::sched::ShutdownReason;

use crate::arch::hypercall;
use crate::arch::processor::extensions;
use crate::driver::console;
use crate::sched::executor;
use crate::xenstore::{self, Watch};

/// Powers off. A status other than 0 is printed, and handed to whoever started the domain if the
/// hypervisor can do that; Xen's own shutdown carries none.
pub fn off(status: u8) -> ! {
    if status != 0 {
        println!("powering off with status {status}");
        if extensions().contains(ExtensionFeatures::EXIT_STATUS) {
            // A refusal leaves the line above as the only trace.
            let _ = hypercall::set_exit_status(status);
        }
    }
    end(ShutdownReason::POWEROFF)
}

/// Asks to be started again.
pub fn reboot() -> ! {
    end(ShutdownReason::REBOOT)
}

/// Ends the domain when the toolstack asks for that by its node `control/shutdown`, where there is a store.
pub fn obey_toolstack() {
    if xenstore::is_present() {
        executor::spawn("shutdown", async {
            if let Err(error) = wait_for_shutdown().await {
                println!("requests of the toolstack to shut down are not heard: {error}");
            }
        });
    }
}

async fn wait_for_shutdown() -> Result<(), Errno> {
    const NODE: &str = "control/shutdown";
    let mut watch = Watch::new(NODE).await?;
    loop {
        watch.next().await?;
        let wanted = xenstore::read(NODE).await.unwrap_or_default();
        if wanted.is_empty() {
            continue;
        }
        // That it is empty again tells the toolstack that it was read.
        xenstore::write(NODE, "").await?;
        println!("the toolstack asks for {wanted}");
        match wanted.as_str() {
            "poweroff" | "halt" => end(ShutdownReason::POWEROFF),
            "reboot" => end(ShutdownReason::REBOOT),
            _ => println!("that cannot be done here"),
        }
    }
}

fn end(reason: ShutdownReason) -> ! {
    console::drain();
    hypercall::shutdown(reason)
}
