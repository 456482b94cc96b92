//! Programs that run in a guest in the background, beside the commands of its console.
//!
//! Each has a folder in the guest: what it printed, its process, its input, and its status when it has ended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Guest, Outcome};

/// Where the folders are.
const FOLDER: &str = "/tmp/tasks";
/// Time that a look into a guest may take beyond what is waited for there.
const LOOK: Duration = Duration::from_secs(30);

/// A program in the background of a guest. It ends with the guest, if nobody ends it.
#[derive(Debug)]
pub struct Task {
    name: String,
}

impl Task {
    fn file(&self, name: &str) -> String {
        format!("{FOLDER}/{}/{name}", self.name)
    }
}

impl Guest {
    /// Starts `command`, a program and its arguments as a shell reads them, in the background. `name` is a word, and of
    /// one program at a time.
    ///
    /// # Errors
    /// When the guest takes no commands.
    pub fn spawn(&mut self, name: &str, command: &str) -> Result<Task> {
        let task = Task { name: name.to_owned() };
        let script = quoted(&format!("echo $$ >pid; exec {command}"));
        // The input is never at its end: the program itself keeps the pipe open for writing.
        self.run(&format!(
            "rm -rf {FOLDER}/{name}; mkdir -p {FOLDER}/{name}; cd {FOLDER}/{name}; mkfifo input\n\
             {{ sh -c {script} <>input >output 2>&1; echo $? >status; }} &\n\
             until [ -s pid ]; do sleep 0.01; done"
        ))?;
        Ok(task)
    }

    /// What it printed until now, on both outputs.
    ///
    /// # Errors
    /// When the guest takes no commands.
    pub fn output(&mut self, task: &Task) -> Result<String> {
        self.run(&format!("cat {}", task.file("output")))
    }

    /// Writes a line to its input.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, task: &Task, line: &str) -> Result<()> {
        let (line, status, input) = (quoted(line), task.file("status"), task.file("input"));
        // Without a reader the shell would wait for one.
        self.run(&format!("[ ! -e {status} ] && echo {line} >{input}")).map(drop)
    }

    /// Waits until it has printed `text`; gives all that it printed.
    ///
    /// # Errors
    /// When it ends without, or takes longer than `limit`.
    pub fn wait_for(&mut self, task: &Task, text: &str, limit: Duration) -> Result<String> {
        let (output, status) = (task.file("output"), task.file("status"));
        let look = format!("grep -q -F -- {} {output}", quoted(text));
        // Looked at once more after the end, for the last words.
        self.outcome(&until(&format!("{look} || [ -e {status} ]"), limit), limit + LOOK)?;
        let found = self.outcome(&look, LOOK)?;
        let printed = self.output(task)?;
        ensure!(found.status == 0, "{} has not printed {text:?} in {limit:?}:\n{printed}", task.name);
        Ok(printed)
    }

    /// Sends it a signal, as `kill` names it: `TERM`.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn signal(&mut self, task: &Task, signal: &str) -> Result<()> {
        let sent = self.outcome(&format!("kill -{signal} $(cat {})", task.file("pid")), LOOK)?;
        ensure!(sent.status == 0, "{} has ended before it got {signal}:\n{}", task.name, self.output(task)?);
        Ok(())
    }

    /// Waits until it ends; its status, and all that it printed.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_end(&mut self, task: &Task, limit: Duration) -> Result<Outcome> {
        let status = task.file("status");
        self.outcome(&until(&format!("[ -s {status} ]"), limit), limit + LOOK)?;
        let output = self.output(task)?;
        let status = self.outcome(&format!("cat {status}"), LOOK)?;
        ensure!(status.status == 0, "{} has not ended in {limit:?}:\n{output}", task.name);
        let status = status.output.trim().parse().context("no exit status")?;
        Ok(Outcome { status, output })
    }

    /// Sends it a signal and waits until it has ended, with status 0; all that it printed.
    ///
    /// # Errors
    /// When it has ended before, ends with another status, or takes longer than `limit`.
    pub fn end(&mut self, task: &Task, signal: &str, limit: Duration) -> Result<String> {
        self.signal(task, signal)?;
        let Outcome { status, output } = self.wait_end(task, limit)?;
        ensure!(status == 0, "{} ended with {status} after {signal}:\n{output}", task.name);
        Ok(output)
    }
}

/// Lines for a shell that wait for `condition` to be true, and give up after `limit`, with another status than 0.
pub(super) fn until(condition: &str, limit: Duration) -> String {
    let waiting = format!("until {condition}; do sleep 0.1; done");
    format!("timeout {:.1} sh -c {}", limit.as_secs_f64(), quoted(&waiting))
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_waits_for_as_long_as_it_is_told() {
        let wait = |condition: &str, limit| {
            let script = until(condition, Duration::from_millis(limit));
            Command::new("sh").args(["-c", &script]).status().unwrap().code()
        };
        assert_eq!(wait("echo \"it's\" | grep -q 'it'", 60_000), Some(0));
        assert_eq!(wait("false", 300), Some(124));
    }
}
