//! Packets, ports, pipelines and poll-mode drivers.
