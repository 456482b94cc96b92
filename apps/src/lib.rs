//! The bundled forwarding programs: l2fwd and testpmd.
