//! Real servers behind the activator: Node, gunicorn, uvicorn and nginx with their own default settings, and the clients
//! that people use. What tests with scripted peers assume about servers is seen here, in the servers themselves.
//!
//! `tests/checks/origins.sh` installs what is needed and says where it is (`DORMOUSE_ORIGINS_DIR`).

#![expect(clippy::print_stdout, reason = "a suite tells its seed and what it counted")]

mod clients;
mod ends;
mod meaning;
mod raw;
mod reuse;
mod stranger;
mod streams;
mod upgrades;
mod world;
