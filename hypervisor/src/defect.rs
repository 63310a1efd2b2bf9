//! Defects: what cannot happen unless the hypervisor or the host is wrong, and then may concern the walls between domains.
//! The domain or frame that is concerned is given up, which is safe, and whoever runs the hypervisor is told.

/// Target of `tracing` events that tell of defects. Whoever starts the process shows them whatever else is logged.
pub const TARGET: &str = "defect";
