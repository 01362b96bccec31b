//! What the fleet tells a console, and what it shows when asked.

use crate::fleet::{Instance, Note};
use dormouse_core::FunctionKey;
use dormouse_core::function::Function;
use jiff::Timestamp;
use std::net::SocketAddr;

/// Something that happened, for the console.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A process was started.
    Started {
        /// Whose.
        key: FunctionKey,
        /// The instance's name.
        name: String,
        /// Its process id.
        pid: u32,
        /// Where it is to listen.
        address: SocketAddr,
    },
    /// A function wrote a line.
    Line {
        /// Whose.
        key: FunctionKey,
        /// The instance's name.
        name: String,
        /// The line, without its end.
        text: String,
    },
    /// A process ended unasked.
    Died {
        /// Whose.
        key: FunctionKey,
        /// The instance's name.
        name: String,
        /// Exit status, time and last line.
        how: String,
    },
    /// An instance that was told to end is gone.
    Stopped {
        /// Whose.
        key: FunctionKey,
        /// The instance's name.
        name: String,
    },
    /// The office has something to tell.
    Told {
        /// About which function.
        key: FunctionKey,
        /// What.
        note: Note,
    },
}

/// A function as it is now, to be shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The object with its status.
    pub function: Function,
    /// Its instances, and the process ids of those that run.
    pub instances: Vec<(Instance, Option<u32>)>,
    /// What was told of it, oldest first.
    pub notes: Vec<ToldAt>,
}

/// Something that the office told of a function.
#[derive(Clone, Debug)]
pub struct ToldAt {
    /// When.
    pub at: Timestamp,
    /// What.
    pub note: Note,
}
