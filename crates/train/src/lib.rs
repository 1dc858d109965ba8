//! Training adapters on frozen models.

mod network;
mod random;

pub use network::base::{Base, BaseError, Shape};
pub use network::parameters::{AdapterShape, Layout, Parameters};
pub use network::{Network, Pack, Recompute, RoutingOfPass, Target};
