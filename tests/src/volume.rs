//! A file system of its own for a test: ext4 in a file, on a loop device. It can lose its power, be full, and grow.
//!
//! Needs root. Nothing is left mounted when it is dropped; `./test` runs the suites that use it in a mount namespace of
//! their own as well, so that nothing is left when they are killed.

use crate::proc::{run, signal};
use crate::wait::until;
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Says that it is there, waits for a line, and has the kernel shut a file system down without writing its journal, as the
/// loss of power does: ioctl EXT4_IOC_SHUTDOWN, `_IOR('X', 125, u32)` = 0x8004587d, with NOLOGFLUSH = 2. In Perl, which
/// every Debian has: in Rust it takes `unsafe`.
const SWITCH: &str = r#"$| = 1; open(my $top, "<", $ARGV[0]) or die "open: $!"; my $how = pack("L", 2); print "ready\n";
    <STDIN>; ioctl($top, 0x8004587d, $how) or die "ioctl: $!";"#;

/// How long whoever had files open there may take to be gone after a kill.
const LET_GO: Duration = Duration::from_secs(30);

/// Bytes of one write of what fills it, and of the last ones.
const FILL: [usize; 2] = [1 << 20, 4096];

/// Pause between two looks whether there is room again.
const LOOK: Duration = Duration::from_millis(2);

/// A mounted volume.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    at: PathBuf,
}

impl Volume {
    /// Makes one of `mib` MiB, with its file and its mount point in `folder`.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn make(folder: &Path, name: &str, mib: u64) -> Result<Self> {
        let volume = Self { image: folder.join(format!("{name}.img")), at: folder.join(name) };
        std::fs::create_dir(&volume.at)?;
        File::create_new(&volume.image)?.set_len(mib << 20)?;
        volume.format()?;
        volume.mount()?;
        Ok(volume)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    fn format(&self) -> Result<()> {
        let mut make = Command::new("mkfs.ext4");
        // Nothing is kept for root; nothing is left to be written later.
        make.args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
        run(make.arg(&self.image)).map(drop)
    }

    /// Its journal is committed when somebody syncs, and not every five seconds by itself: a cut takes all the rest.
    fn mount(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop,commit=600"]).arg(&self.image).arg(&self.at)).map(drop)
    }

    /// The power goes: what was not synced is lost, and every access fails from now on. It goes for the processes that
    /// use it as well: they are stopped before, and are to be killed. (A sync that runs while the kernel shuts the file
    /// system down may end well and have written nothing: one round in six, with one writer. No process may live to tell.)
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub async fn cut(&self, users: &[u32]) -> Result<()> {
        let mut switch = Command::new("perl");
        switch.args(["-e", SWITCH]).arg(&self.at).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut switch = switch.spawn().context("perl")?;
        let mut told = String::new();
        BufReader::new(switch.stdout.take().context("no output")?).read_line(&mut told)?;
        for &pid in users {
            signal(pid, Signal::SIGSTOP)?;
        }
        let stopped = || async { users.iter().try_for_each(|pid| is_stopped(*pid)) };
        until("who uses the volume stands still", LET_GO, stopped).await?;
        drop(switch.stdin.take());
        let ended = switch.wait()?;
        anyhow::ensure!(ended.success(), "the switch ended with {ended}");
        Ok(())
    }

    /// The power is back after [`Volume::cut`]. Whoever had files open there has been killed.
    ///
    /// # Errors
    /// When it cannot be mounted again.
    pub async fn restore(&self) -> Result<()> {
        self.unmount().await?;
        self.mount()
    }

    /// As [`Volume::restore`], with an empty disk in place of the old one.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub async fn replace(&self) -> Result<()> {
        self.unmount().await?;
        self.format()?;
        self.mount()
    }

    async fn unmount(&self) -> Result<()> {
        let gone = || async { run(Command::new("umount").arg(&self.at)) };
        until("nobody uses the volume", LET_GO, gone).await.map(drop)
    }

    /// Becomes larger, by so many MiB, while nobody uses it: to grow under its users takes a right that root in a container
    /// has not (CAP_SYS_RESOURCE).
    ///
    /// # Errors
    /// When it does not.
    pub async fn grow(&self, mib: u64) -> Result<()> {
        self.unmount().await?;
        let image = File::options().write(true).open(&self.image)?;
        image.set_len(image.metadata()?.len() + (mib << 20))?;
        run(Command::new("e2fsck").args(["-f", "-p"]).arg(&self.image))?;
        run(Command::new("resize2fs").arg(&self.image))?;
        self.mount()
    }

    /// Fills it to its last block, and takes what others free as soon as they do.
    ///
    /// # Errors
    /// When it cannot be written to for another reason.
    pub fn fill(&self) -> Result<Full> {
        let path = self.at.join("filler");
        let (mut file, over) = (File::create_new(&path)?, Arc::new(AtomicBool::new(false)));
        take_all(&mut file)?;
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                take_all(&mut file)?;
                std::thread::sleep(LOOK);
            }
            Ok(())
        });
        Ok(Full { path, over, thread: Some(thread) })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily when somebody still uses it: it goes with them.
        if run(Command::new("umount").arg(&self.at)).is_err() {
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.at));
        }
    }
}

/// Fails while a thread of a process runs. One that waits for the disk stops before it sees what came of it.
fn is_stopped(pid: u32) -> Result<()> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        // Behind the name, which is in parentheses: T is stopped, D waits for a device.
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        anyhow::ensure!(matches!(state, Some('T' | 'D')), "a thread of {pid} is in state {state:?}");
    }
    Ok(())
}

/// Writes until nothing more goes.
fn take_all(file: &mut File) -> std::io::Result<()> {
    for size in FILL {
        let block = vec![b'x'; size];
        loop {
            match file.write(&block) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => break,
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// A volume that is full, until this is dropped: then what filled it is removed.
#[derive(Debug)]
pub struct Full {
    path: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Full {
    /// It stays as full as it is, and what is freed from now on is left to others.
    ///
    /// # Errors
    /// When it was not filled all the time.
    pub fn stay(&mut self) -> Result<()> {
        self.over.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow::anyhow!("a panic"))?.context("filling a volume")
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = self.stay();
        let _ = std::fs::remove_file(&self.path);
    }
}
