//! Stories of sources and the catalogue.
