//! What a node shows over HTTP: `/metrics` for Prometheus, and a status page.
//!
//! [`metrics`], [`http`] and [`page`] are sans-IO; [`server`] puts them on a socket, on threads of
//! its own. Everything here is read from one [`understudy_api::Status`], which is fetched at most
//! five times a second, however many ask.
#![forbid(unsafe_code)]

pub mod http;
pub mod metrics;
pub mod page;
pub mod server;

pub use server::{Seen, Server, Source};
