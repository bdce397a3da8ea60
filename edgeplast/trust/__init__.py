"""Who made a bundle: keys, signatures, and whom a device believes; see README.md."""
