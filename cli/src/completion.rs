//! `dormouse completion`: scripts with which shells complete the command line.

use crate::args::Cli;
use crate::exit::Outcome;
use crate::say;
use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::aot;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  source <(dormouse completion bash)
  dormouse completion bash > /etc/bash_completion.d/dormouse
  dormouse completion zsh > \"${fpath[1]}/_dormouse\"
  dormouse completion fish > ~/.config/fish/completions/dormouse.fish")]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: &CompletionArgs) -> Outcome {
    Ok(say::bytes(&script(args.shell))?)
}

fn script(shell: Shell) -> Vec<u8> {
    let shell = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    // What is hidden would be offered: a command line without it is described.
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut described = Command::new("dormouse").version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    let mut script = Vec::new();
    aot::generate(shell, &mut described, "dormouse", &mut script);
    script
}
