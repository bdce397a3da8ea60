"""A fleet: many devices learn one model, their pictures stay; see README.md."""
