//! Cuts the power and kills the process under load, and compares every acknowledged event with what is there afterwards.
//!
//! A kill is SIGKILL to a process that writes. A power cut is a copy of the file behind a loop-mounted ext4, taken at the
//! moment of an acknowledgement: it holds what the device was told to keep, and nothing of the page cache above it. The
//! control writes without fsync, and must lose something. Parents and children are this program.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use graylane_engine::clock::{Clock as _, Timestamp, WallClock};
use graylane_engine::id::{Attempt, Digest, RunId, Seq};
use graylane_engine::journal::{DiskJournal, Journal as _, Limits};
use graylane_engine::proof;
use graylane_engine::run::{Event, Outcome, Record, Trigger};

const USAGE: &str = "graylane-torture [--cuts N] [--kills N] [--seed N] [--folder FOLDER] [--write FILE]";
/// Small, so that cuts meet sealing, merging and moves to a fresh folder.
const LIMITS: Limits = Limits { seal: 100, merge: 4, rotate: 20_000 };
const WRITERS: u64 = 32;
const RECORDS: u64 = 6;

type Done<T> = Result<T, String>;

struct Asked {
    child: Option<String>,
    cuts: u32,
    kills: u32,
    seed: u64,
    folder: PathBuf,
    write: String,
}

fn main() -> ExitCode {
    let asked = match read(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(why) => {
            say(&format!("{why}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    let done = match asked.child.as_deref() {
        Some("journal") => write_for_ever(&asked.folder, asked.seed),
        Some(_) => write_without_fsync(&asked.folder),
        None => all(&asked),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("torture: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn read(mut arguments: impl Iterator<Item = String>) -> Done<Asked> {
    let seed = WallClock::default().random() % 1_000_000;
    let folder = PathBuf::from("target/torture");
    let mut asked = Asked { child: None, cuts: 20, kills: 100, seed, folder, write: "-".into() };
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or(format!("{argument} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{argument}: {error}"));
        match argument.as_str() {
            "--child" => asked.child = Some(value),
            "--cuts" => asked.cuts = u32::try_from(number()?).unwrap_or(u32::MAX),
            "--kills" => asked.kills = u32::try_from(number()?).unwrap_or(u32::MAX),
            "--seed" => asked.seed = number()?,
            "--folder" => asked.folder = value.into(),
            "--write" => asked.write = value,
            _ => return Err(format!("{argument} is not known")),
        }
    }
    Ok(asked)
}

/// The id of a run; what it holds follows from its number.
fn id(run: u64) -> RunId {
    RunId::new(1_760_000_000_000 + run / 1_000, u128::from(run))
}

fn record(run: u64, seq: u64) -> Done<Record> {
    let task = || "deploy".parse().map_err(|error| format!("{error}"));
    let event = match seq {
        1 => Event::RunSubmitted {
            source: None,
            key: None,
            workflow: "torture".parse().map_err(|error| format!("{error}"))?,
            revision: Digest::of(b"revision"),
            bundle: Digest::of(b"bundle"),
            inputs: BTreeMap::from([("number".to_owned(), run.into())]),
            vars: BTreeMap::new(),
            secrets: BTreeSet::new(),
            trigger: Trigger::Manual,
            actor: "torture".into(),
            left_out: BTreeSet::new(),
            environments: BTreeSet::new(),
            tags: BTreeSet::new(),
            origin: None,
            kept: BTreeMap::new(),
        },
        2 => Event::RunAdmitted,
        RECORDS => Event::RunFinished { outcome: Outcome::Succeeded, reason: None, undone_by: None },
        _ => Event::PhaseEntered {
            task: task()?,
            attempt: Attempt::FIRST,
            phase: format!("run {run}, step {seq}: {}", "x".repeat((run % 200) as usize)),
        },
    };
    Ok(Record { run: id(run), seq: Seq(seq), at: Timestamp::from_millis(run + seq), event })
}

/// Writes run after run, and says each event when it is acknowledged.
fn write_for_ever(folder: &Path, first: u64) -> Done<()> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let journal = Arc::new(DiskJournal::open_with(folder, LIMITS).map_err(|error| error.to_string())?);
    runtime.block_on(async {
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let journal = Arc::clone(&journal);
            writers.push(tokio::spawn(async move {
                let mut run = first + writer;
                loop {
                    for seq in 1..=RECORDS {
                        journal.append(vec![record(run, seq)?]).await.map_err(|error| error.to_string())?;
                        // One write, so that lines of several threads do not mix.
                        let line = format!("{run} {seq}\n");
                        std::io::stdout().write_all(line.as_bytes()).map_err(|error| error.to_string())?;
                    }
                    run += WRITERS;
                }
            }));
        }
        for writer in writers {
            let ended: Done<()> = writer.await.map_err(|error| error.to_string())?;
            ended?;
        }
        Ok(())
    })
}

/// The control: says what it never made durable.
fn write_without_fsync(folder: &Path) -> Done<()> {
    let mut file = fs::File::create(folder.join("control")).map_err(|error| error.to_string())?;
    for run in 0_u64.. {
        let line = format!("{run} 1\n");
        file.write_all(line.as_bytes()).map_err(|error| error.to_string())?;
        std::io::stdout().write_all(line.as_bytes()).map_err(|error| error.to_string())?;
        std::thread::park_timeout(Duration::from_micros(200));
    }
    Ok(())
}

/// A child that writes, and what it has said so far.
struct Writing {
    child: Child,
    lines: mpsc::Receiver<(u64, u64)>,
    said: HashMap<u64, u64>,
}

impl Writing {
    fn start(kind: &str, folder: &Path, first: u64) -> Done<Writing> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .args(["--child", kind, "--seed", &first.to_string(), "--folder"])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || read_lines(stdout, &sender));
        Ok(Writing { child, lines, said: HashMap::new() })
    }

    /// Takes in what is said until so many events were acknowledged.
    fn until(&mut self, events: u64) -> Done<()> {
        for _ in 0..events {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            let (run, seq) = line.map_err(|_| "the writer fell silent".to_owned())?;
            self.said.insert(run, seq);
        }
        Ok(())
    }

    fn take_in(&mut self) {
        while let Ok((run, seq)) = self.lines.try_recv() {
            self.said.insert(run, seq);
        }
    }

    fn signal(&self, name: &str) -> Done<()> {
        shell("kill", &[name, &self.child.id().to_string()])
    }

    fn kill(&mut self) -> Done<()> {
        self.child.kill().map_err(|error| error.to_string())?;
        self.child.wait().map(drop).map_err(|error| error.to_string())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(stdout: ChildStdout, sender: &mpsc::Sender<(u64, u64)>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let mut numbers = line.split(' ').map(str::parse);
        // A last line that the kill cut short says nothing.
        if let (Some(Ok(run)), Some(Ok(seq)), None) = (numbers.next(), numbers.next(), numbers.next())
            && seq <= RECORDS
            && sender.send((run, seq)).is_err()
        {
            return;
        }
    }
}

/// What came of one blow.
#[derive(Debug, Default)]
struct Outcomes {
    blows: u32,
    acknowledged: u64,
    missing: u64,
    sealed: u64,
    problems: Vec<String>,
}

impl Outcomes {
    /// Opens what is left and compares.
    fn compare(&mut self, folder: &Path, said: &HashMap<u64, u64>) {
        self.blows += 1;
        let journal = match DiskJournal::open_with(folder, LIMITS) {
            Ok(journal) => journal,
            Err(error) => {
                self.missing += said.values().sum::<u64>();
                self.problems.push(error.to_string());
                return;
            }
        };
        for (run, last) in said {
            self.acknowledged += last;
            let records = journal.read(id(*run)).unwrap_or_default();
            let same = (1..=*last)
                .filter(|seq| record(*run, *seq).ok().as_ref() == records.get((*seq - 1) as usize))
                .count() as u64;
            self.missing += last - same;
        }
        self.sealed = self.sealed.max(journal.statistics().sealed);
        // The bundles that these records name were never made.
        let of_objects = |problem: &String| problem.starts_with("the object ");
        self.problems.extend(journal.check().problems.into_iter().filter(|problem| !of_objects(problem)));
        match proof::verify(&journal, &[]) {
            Ok(verified) => self.problems.extend(verified.problems),
            Err(error) => self.problems.push(error.to_string()),
        }
    }
}

fn all(asked: &Asked) -> Done<()> {
    say(&format!("torture: seed {}", asked.seed));
    fs::create_dir_all(&asked.folder).map_err(|error| error.to_string())?;
    let mut random = Random(asked.seed);
    let kills = kill_loop(asked, &mut random)?;
    let cuts = power_cuts(asked, &mut random)?;
    let page = page(asked, &kills, &cuts);
    if asked.write == "-" {
        let _ = writeln!(std::io::stdout(), "{page}");
    } else {
        fs::write(&asked.write, page).map_err(|error| format!("{}: {error}", asked.write))?;
    }
    let lost = |outcomes: &Outcomes| outcomes.missing > 0 || !outcomes.problems.is_empty();
    if lost(&kills) || cuts.as_ref().is_ok_and(|(cuts, _)| lost(cuts)) {
        return Err("something that was acknowledged is not there".into());
    }
    Ok(())
}

fn kill_loop(asked: &Asked, random: &mut Random) -> Done<Outcomes> {
    let data = asked.folder.join("kills");
    remove(&data)?;
    let mut said = HashMap::new();
    let mut outcomes = Outcomes::default();
    for kill in 0..asked.kills {
        let mut writing = Writing::start("journal", &data, u64::from(kill + 1) * 1_000_000)?;
        writing.until(200 + random.below(4_000))?;
        writing.kill()?;
        // What was said before the kill counts, whenever it is read.
        writing.until_end();
        said.extend(std::mem::take(&mut writing.said));
        outcomes.compare(&data, &said);
        // Each event counts once.
        if kill + 1 < asked.kills {
            outcomes.acknowledged = 0;
        }
        if outcomes.missing > 0 || !outcomes.problems.is_empty() {
            return Ok(outcomes);
        }
    }
    remove(&data)?;
    Ok(outcomes)
}

impl Writing {
    fn until_end(&mut self) {
        while let Ok((run, seq)) = self.lines.recv_timeout(Duration::from_secs(10)) {
            self.said.insert(run, seq);
        }
    }
}

/// Cuts, and what the control lost; else why there were none.
fn power_cuts(asked: &Asked, random: &mut Random) -> Done<Result<(Outcomes, u64), String>> {
    let folder = asked.folder.join("cuts");
    remove(&folder)?;
    let disk = match Disk::make(&folder, "disk") {
        Ok(disk) => disk,
        Err(why) => return Ok(Err(why)),
    };
    // The control first: with nothing made durable, the comparison must find a loss.
    let (_, control) = cut(&disk, "control", 0, 2_000)?;
    let kept = control.with(|folder| {
        fs::read_to_string(folder.join("control")).map_or(0, |text| text.lines().count() as u64)
    });
    let lost_by_control = 2_000_u64.saturating_sub(kept);
    let mut outcomes = Outcomes::default();
    let mut said = HashMap::new();
    for number in 0..asked.cuts {
        let first = u64::from(number + 1) * 1_000_000;
        let (new, copy) = cut(&disk, "journal", first, 500 + random.below(8_000))?;
        said.extend(new.said);
        outcomes.acknowledged = 0;
        copy.with(|folder| outcomes.compare(&folder.join("data"), &said));
        if outcomes.missing > 0 || !outcomes.problems.is_empty() {
            break;
        }
        // The next one goes on where this one was cut: what the child wrote between cut and kill is said too.
        said.extend(new.later);
    }
    drop(disk);
    remove(&folder)?;
    Ok(Ok((outcomes, lost_by_control)))
}

/// What was acknowledged before the power went, and what until the process was killed after it.
struct Acknowledged {
    said: HashMap<u64, u64>,
    later: HashMap<u64, u64>,
}

/// Lets a child write, and copies the disk at the moment of an acknowledgement.
fn cut(disk: &Disk, kind: &str, first: u64, events: u64) -> Done<(Acknowledged, Disk)> {
    let folder = if kind == "control" { disk.mount.clone() } else { disk.mount.join("data") };
    let mut writing = Writing::start(kind, &folder, first)?;
    writing.until(events)?;
    // The power is off for the process from here on; what it has said was on the disk before.
    writing.signal("-STOP")?;
    writing.take_in();
    let said = writing.said.clone();
    let copy = disk.image.with_file_name("copy.image");
    shell("cp", &["--sparse=always", &disk.image.display().to_string(), &copy.display().to_string()])?;
    writing.kill()?;
    writing.until_end();
    let later = std::mem::take(&mut writing.said);
    Ok((Acknowledged { said, later }, Disk::mount(copy)?))
}

/// A loop-mounted ext4.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn make(folder: &Path, name: &str) -> Done<Disk> {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let image = folder.join(format!("{name}.image"));
        let file = fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(768 << 20).map_err(|error| error.to_string())?;
        shell("mkfs.ext4", &["-q", "-F", &image.display().to_string()])?;
        Disk::mount(image)
    }

    fn mount(image: PathBuf) -> Done<Disk> {
        let mount = image.with_extension("mount");
        fs::create_dir_all(&mount).map_err(|error| error.to_string())?;
        shell("mount", &["-o", "loop", &image.display().to_string(), &mount.display().to_string()])?;
        Ok(Disk { image, mount })
    }

    /// Looks at it, and throws it away.
    fn with<T>(self, look: impl FnOnce(&Path) -> T) -> T {
        look(&self.mount)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = shell("umount", &[&self.mount.display().to_string()]);
        let _ = fs::remove_file(&self.image);
    }
}

fn shell(program: &str, arguments: &[&str]) -> Done<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn remove(folder: &Path) -> Done<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// A splitmix64 sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

fn page(asked: &Asked, kills: &Outcomes, cuts: &Result<(Outcomes, u64), String>) -> String {
    let mut page = String::from("# Kills and power cuts\n\n");
    // Writing into a String cannot fail.
    let _ = write!(
        page,
        "Written by `cargo xtask long`; seed {}. A child writes {WRITERS} runs at once and says each event when it is acknowledged; then it is\n\
         killed, or the file behind its ext4 is copied at that moment, mounted and opened. Every acknowledged event is compared, and the whole\n\
         history is checked and verified. Limits are small, so that blows meet sealing, merging and moves to a fresh folder.\n\n\
         | blow | how often | acknowledged events | missing | problems | runs sealed at the end |\n|---|---|---|---|---|---|\n",
        asked.seed
    );
    let row = |page: &mut String, what: &str, outcomes: &Outcomes| {
        let _ = writeln!(
            page,
            "| {what} | {} | {} | {} | {} | {} |",
            outcomes.blows,
            outcomes.acknowledged,
            outcomes.missing,
            outcomes.problems.len(),
            outcomes.sealed
        );
    };
    row(&mut page, "SIGKILL", kills);
    match cuts {
        Ok((cuts, lost)) => {
            row(&mut page, "power cut", cuts);
            let _ = write!(
                page,
                "\nControl: of 2,000 events that were said without an fsync, the same cut loses {lost}.\n"
            );
        }
        Err(why) => {
            let _ = write!(page, "\nPower cuts were skipped: a loop device needs root ({why}).\n");
        }
    }
    let problems = kills.problems.iter().chain(cuts.iter().flat_map(|(cuts, _)| &cuts.problems));
    for problem in problems {
        let _ = writeln!(page, "\n- {problem}");
    }
    page
}

fn say(text: &str) {
    // Whoever closed the stream does not want to know.
    let _ = writeln!(std::io::stderr(), "{text}");
}
