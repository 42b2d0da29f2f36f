//! What a person types, and what the shell gets back.

mod certs;
mod check;
mod demo;
pub mod log;
mod run;
mod schema;
mod turns;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// How a command ended, as the shell sees it. A mistake on the command line itself is 2, which clap answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Done,
    /// 1: something went wrong that is not the configuration's fault.
    Failed,
    /// 2: what was asked for makes no sense.
    Usage,
    /// 78: the configuration has faults (EX_CONFIG of sysexits.h).
    BadConfig,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::BadConfig => 78,
        })
    }
}

const EXAMPLES: &str = "\
Examples:
  evenkeel demo                            watch traffic being balanced; needs nothing
  evenkeel demo --scenario outage          watch servers fail for a minute, and nobody notice
  evenkeel check --config ./evenkeel.toml  say everything that is wrong with a file
  evenkeel certs                           list certificates, and what is wrong with them
  evenkeel run --config ./evenkeel.toml    serve, and follow the file while it is edited
  kill -HUP PID                            look at the file now
  kill -TERM PID                           finish what is under way, then end (twice: end at once)

The shortest file that works:
  [listeners.web]
  bind = \"127.0.0.1:8080\"
  pool = \"app\"

  [pools.app]
  backends = [\"127.0.0.1:3000\", \"127.0.0.1:3001\"]

Exit codes:
  0   done
  1   failed: an address is in use, a worker died, a certificate has to be looked after, …
  2   the command line makes no sense
  78  the configuration has faults; they are on stderr";

/// Balances TCP and HTTP over pools of servers, from one TOML file that may change while it serves.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// Log this much on stderr: error, warn, info, debug or trace [default: what EVENKEEL_LOG says, else info]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"], hide_possible_values = true)]
    pub log_level: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve in the foreground until SIGTERM or SIGINT
    ///
    /// Prints one line `listening NAME ADDRESS` on stdout for each bound address, so port 0 is usable. A change of the
    /// file or its includes is applied as a whole or, when it has faults, refused as a whole; SIGHUP looks at once.
    Run(ConfigFile),
    /// Say everything that is wrong with a file and its includes; never binds anything
    Check(ConfigFile),
    /// List the certificates of listeners and pools: names, issuer, dates, key; and hosts that have none
    ///
    /// The exit code is 0 when all is well. It is 1 when a certificate has expired, is not valid yet or ends within 21 days, or
    /// when no certificate is for a host that a route of its listener names; 78 when the file or what it names has faults.
    Certs {
        /// Which file.
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Start servers, a balancer before them and some traffic, and show who gets what
    ///
    /// One of the servers fails by schedule, and the table shows what is made of that. Everything is on loopback and in a
    /// temporary file that you may edit while it runs. With a scenario it is a script that ends by itself, and the exit code
    /// says whether all went as it should: 0, else 1.
    Demo(Demo),
    /// Print the JSON Schema of the configuration, for editors
    Schema {
        /// Print the reference of all keys instead, in Markdown
        #[arg(long)]
        reference: bool,
    },
}

/// Which file.
#[derive(Clone, Debug, Args)]
pub struct ConfigFile {
    /// The configuration to use
    #[arg(long, short, value_name = "FILE", default_value = "/etc/evenkeel/evenkeel.toml")]
    pub config: PathBuf,
}

/// How the demonstration runs.
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Listen for HTTP on this port of 127.0.0.1; 0 takes any [default: 8080 or the next free one]
    #[arg(long)]
    pub port: Option<u16>,
    /// Balance this way, both HTTP and TCP
    #[arg(long, value_name = "NAME", default_value = "weighted_round_robin", value_parser = ALGORITHMS)]
    pub algorithm: String,
    /// Serve HTTPS too, with a certificate made for it
    #[arg(long, conflicts_with = "scenario")]
    pub tls: bool,
    /// End after so many seconds [default: on Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Play a script, act by act, and say what happened and why: outage
    #[arg(long, value_name = "NAME", conflicts_with_all = ["seconds", "algorithm"], hide_possible_values = true)]
    pub scenario: Option<Scenario>,
    /// Play it so many times as fast
    #[arg(long, value_name = "N", default_value = "1", requires = "scenario", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub speed: u32,
}

/// A script for the demonstration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// A minute in which servers are killed, hang, answer 500, and fail all at once.
    Outage,
}

const ALGORITHMS: [&str; 7] = [
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "ip_hash",
    "least_response_time",
    "random_two_choices",
    "consistent_hash",
];

/// Does what was asked.
#[must_use]
pub fn execute(arguments: &Arguments) -> ExitCode {
    let level = arguments.log_level.as_deref();
    let exit = match &arguments.command {
        Command::Run(file) => run::run(&file.config, level),
        Command::Check(file) => check::run(&file.config),
        Command::Certs { file, json } => certs::run(&file.config, *json),
        Command::Demo(demo) => demo::run(demo, level),
        Command::Schema { reference } => schema::run(*reference),
    };
    exit.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn run_takes_the_installed_file_unless_told() {
        let arguments = Arguments::try_parse_from(["evenkeel", "run"]).unwrap();
        let Command::Run(file) = arguments.command else { panic!("run") };
        assert_eq!(file.config, PathBuf::from("/etc/evenkeel/evenkeel.toml"));
    }

    #[test]
    fn the_log_level_may_stand_on_either_side() {
        for line in [["evenkeel", "--log-level", "debug", "schema"], ["evenkeel", "schema", "--log-level", "debug"]] {
            assert_eq!(Arguments::try_parse_from(line).unwrap().log_level.as_deref(), Some("debug"));
        }
        assert!(Arguments::try_parse_from(["evenkeel", "schema", "--log-level", "loud"]).is_err());
    }
}
