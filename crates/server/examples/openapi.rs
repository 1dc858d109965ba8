//! Prints the OpenAPI document: `cargo run -p rapport-server --example openapi > docs/openapi.json`.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

fn main() {
    println!("{:#}", rapport_server::openapi_document());
}
