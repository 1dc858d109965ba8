pub mod command;
pub mod render;
pub mod session;
pub mod settings;
pub mod transcript;
