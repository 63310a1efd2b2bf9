//! Back-ends: host threads that serve guests over shared-memory rings.
