//! `rapport users`: accounts and API keys, from the machine that has the store.

use std::io::{BufRead, Write};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use rapport_server::SCOPES;
use rapport_store::{ApiKeyId, Location, NewApiKey, NewUser, Plans, Store, UnixMs, User, UserRole};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::store::{existing, now, open_new, runtime};

#[derive(Debug, Subcommand)]
pub(crate) enum UsersCommand {
    /// Make an account
    Add(AddUser),
    /// List the accounts
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Put a user on another plan
    SetPlan { name: String, plan: String },
    /// Make a user an admin, or a user again
    SetRole { name: String, role: UserRole },
    /// Print a link that signs a user in once, within a day: for a forgotten password
    Link { name: String },
    /// Close every way in of a user, and end the sessions
    Disable { name: String },
    /// Let a disabled user in again
    Enable { name: String },
    /// API keys
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Args)]
pub(crate) struct AddUser {
    name: String,
    /// admin or user
    #[arg(long, default_value = "user")]
    role: UserRole,
    #[arg(long, default_value = "free")]
    plan: String,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and print it: it is shown this once
    Create {
        /// Whose it is
        user: String,
        /// What it is for
        #[arg(long, default_value = "")]
        name: String,
        /// What it opens: api everything, read what only reads
        #[arg(long = "scope", default_value = "api", value_parser = SCOPES)]
        scopes: Vec<String>,
        /// Without it the key stays good until it is revoked
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
        expires_days: Option<u32>,
    },
    /// List a user's keys
    List { user: String },
    /// Close a key for good, by its id
    Revoke { id: ApiKeyId },
}

/// Runs a command about the users of the store at `location`.
pub(crate) fn run(
    command: &UsersCommand,
    location: &Location,
    plans: &Plans,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let wait = Waiting { runtime: &runtime };
    match command {
        UsersCommand::Add(options) => {
            check_plan(plans, &options.plan)?;
            let password = options.password_stdin.then(read_password).transpose()?;
            let store = open_new(&runtime, location)?;
            let new = NewUser {
                name: &options.name,
                role: options.role,
                plan: &options.plan,
                password: password.as_deref(),
            };
            let user = runtime.block_on(store.create_user(new, now()))?;
            writeln!(out, "{}", user.id)?;
        }
        UsersCommand::List { json } => {
            let store = existing(&runtime, location)?;
            let mut after = None;
            loop {
                let users = runtime.block_on(store.users(after, 100))?;
                let Some(last) = users.last() else { break };
                after = Some(last.id);
                for user in &users {
                    if *json {
                        writeln!(out, "{}", json!(user))?;
                    } else {
                        writeln!(out, "{}", line(user))?;
                    }
                }
            }
        }
        UsersCommand::SetPlan { name, plan } => {
            check_plan(plans, plan)?;
            let (store, user) = wait.find(location, name)?;
            runtime.block_on(store.set_plan(user.id, plan))?;
        }
        UsersCommand::SetRole { name, role } => {
            let (store, user) = wait.find(location, name)?;
            runtime.block_on(store.set_role(user.id, *role))?;
        }
        UsersCommand::Link { name } => {
            let (store, user) = wait.find(location, name)?;
            let (now, until) = (now(), now().plus_ms(UnixMs::DAY_MS));
            let link = runtime.block_on(store.create_sign_in_link(user.id, now, until))?;
            crate::say(format_args!("open this at the server's address:"));
            writeln!(out, "/setup#{}", link.reveal())?;
        }
        UsersCommand::Disable { name } => {
            let (store, user) = wait.find(location, name)?;
            runtime.block_on(store.disable_user(user.id, now()))?;
        }
        UsersCommand::Enable { name } => {
            let (store, user) = wait.find(location, name)?;
            runtime.block_on(store.enable_user(user.id))?;
        }
        UsersCommand::Key(KeyCommand::Create { user, name, scopes, expires_days }) => {
            let (store, user) = wait.find(location, user)?;
            let now = now();
            let expires_at = expires_days.map(|days| now.plus_ms(i64::from(days) * UnixMs::DAY_MS));
            let new = NewApiKey { name, scopes, expires_at };
            let (key, secret) = runtime.block_on(store.create_api_key(user.id, new, now))?;
            crate::say(format_args!("{} of {}; it is shown this once:", key.id, user.name));
            writeln!(out, "{}", secret.reveal())?;
        }
        UsersCommand::Key(KeyCommand::List { user }) => {
            let (store, user) = wait.find(location, user)?;
            for key in runtime.block_on(store.api_keys(user.id))? {
                let scopes = key.scopes.join(",");
                writeln!(out, "{}  {}...  {scopes}  {}", key.id, key.prefix, key.name)?;
            }
        }
        UsersCommand::Key(KeyCommand::Revoke { id }) => {
            let store = existing(&runtime, location)?;
            let key = runtime.block_on(store.api_key(*id))?;
            runtime.block_on(store.revoke_api_key(key.user, key.id, now()))?;
        }
    }
    Ok(())
}

struct Waiting<'a> {
    runtime: &'a Runtime,
}

impl Waiting<'_> {
    fn find(&self, location: &Location, name: &str) -> anyhow::Result<(Store, User)> {
        let store = existing(self.runtime, location)?;
        let user = self
            .runtime
            .block_on(store.user_by_name(name))
            .with_context(|| format!("`{name}`: `rapport users list` shows who there is"))?;
        Ok((store, user))
    }
}

fn check_plan(plans: &Plans, plan: &str) -> anyhow::Result<()> {
    if plans.get(plan).is_some() {
        return Ok(());
    }
    let known: Vec<&str> = plans.iter().map(|plan| plan.id.as_str()).collect();
    bail!("there is no plan `{plan}`: use one of {}", known.join(", "))
}

fn read_password() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn line(user: &User) -> String {
    let state = if user.disabled_at.is_some() { "disabled" } else { "" };
    format!("{}  {:<6} {:<10} {}  {state}", user.id, user.role.as_str(), user.plan, user.name)
        .trim_end()
        .to_owned()
}
