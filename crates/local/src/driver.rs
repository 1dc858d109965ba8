//! The thread that owns the engine.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use rapport_engine::{DiskProblem, EmbeddingJob, Engine, EngineEvent, SequenceId};
use rapport_types::{Control, GenerateError};

use crate::reply::{Job, ReplyState, submit_error};

type Answer = Result<(), GenerateError>;
type Vectors = Result<Vec<Vec<f32>>, GenerateError>;

/// Requests for embeddings that may wait for their turn.
const MAX_WAITING_EMBEDDINGS: usize = 64;

/// What the thread is asked for.
enum Work {
    Reply(Box<Job>, Sender<Answer>),
    Embed(Embed),
}

/// Texts to embed, and who waits for their vectors.
struct Embed {
    jobs: Vec<EmbeddingJob>,
    control: Control,
    answer: Sender<Vectors>,
}

/// Where an operator is told what nobody else needs to know, such as cached files that are damaged.
/// By default nobody listens.
#[derive(Clone, Default)]
pub struct Notices(Option<Arc<Tell>>);

type Tell = dyn Fn(&str) + Send + Sync;

impl Notices {
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self, notice: &str) {
        if let Some(tell) = &self.0 {
            tell(notice);
        }
    }

    /// Tells of cached files that were not used or not written; of those of other builds, which are
    /// no fault, only how many they are.
    fn tell_reports(&self, engine: &mut Engine) {
        let mut n_other_build = 0;
        for report in engine.take_disk_reports() {
            if report.problem == DiskProblem::OtherBuild {
                n_other_build += 1;
            } else {
                self.tell(&format!("cache: {}: {}", report.path.display(), report.problem));
            }
        }
        if n_other_build > 0 {
            self.tell(&format!(
                "cache: {n_other_build} files of other builds, kept while there is room"
            ));
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

/// A handle to the engine's thread, which ends when this is dropped.
pub(crate) struct Driver {
    jobs: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    pub(crate) fn start(engine: Engine, notices: Notices) -> Self {
        let (jobs, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("rapport-engine".to_owned())
            .spawn(move || run(engine, &receiver, &notices))
            .expect("the system can start a thread");
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    /// Hands a reply over and waits for the engine to take or refuse it.
    pub(crate) fn submit(&self, job: Job) -> Result<Control, GenerateError> {
        let control = job.reply.control.clone();
        let (answer, taken) = channel();
        let jobs = self.jobs.as_ref().ok_or(GenerateError::EngineStopped)?;
        let work = Work::Reply(Box::new(job), answer);
        jobs.send(work).map_err(|_| GenerateError::EngineStopped)?;
        taken.recv().map_err(|_| GenerateError::EngineStopped)??;
        Ok(control)
    }

    /// The vectors of texts, one after the other; conversations go on meanwhile.
    pub(crate) fn embed(&self, texts: Vec<Vec<u32>>, control: Control) -> Vectors {
        let jobs = texts.into_iter().map(EmbeddingJob::new).collect();
        let (answer, vectors) = channel();
        let to_thread = self.jobs.as_ref().ok_or(GenerateError::EngineStopped)?;
        let work = Work::Embed(Embed { jobs, control, answer });
        to_thread.send(work).map_err(|_| GenerateError::EngineStopped)?;
        vectors.recv().map_err(|_| GenerateError::EngineStopped)?
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its panics are caught and reported to the replies they broke.
            let _ = thread.join();
        }
    }
}

fn run(mut engine: Engine, jobs: &Receiver<Work>, notices: &Notices) {
    notices.tell_reports(&mut engine);
    let mut replies: HashMap<SequenceId, ReplyState> = HashMap::new();
    let mut embeds: VecDeque<Embed> = VecDeque::new();
    let mut is_open = true;
    while is_open || !replies.is_empty() {
        if replies.is_empty() && embeds.is_empty() {
            match jobs.recv() {
                Ok(work) => accept(&mut engine, &mut replies, &mut embeds, work),
                Err(_) => return,
            }
        }
        loop {
            match jobs.try_recv() {
                Ok(work) => accept(&mut engine, &mut replies, &mut embeds, work),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    is_open = false;
                    embeds.clear();
                    for reply in replies.values() {
                        reply.control.stop();
                    }
                    break;
                }
            }
        }
        // In turn with the conversations' passes, one for one.
        embed(&mut engine, &mut embeds);
        replies.retain(|&id, reply| {
            if reply.control.is_stopped() {
                engine.cancel(id);
                reply.cancel();
                return false;
            }
            if reply.control.wants_answer_now() {
                engine.end_phase(id);
            }
            true
        });
        if replies.is_empty() {
            continue;
        }
        if let Ok(events) = catch_unwind(AssertUnwindSafe(|| engine.step())) {
            dispatch(&mut engine, &mut replies, events);
            notices.tell_reports(&mut engine);
        } else {
            // Which sequence it was is not known, so none of this pass can be trusted.
            for (id, mut reply) in replies.drain() {
                engine.cancel(id);
                reply
                    .fail(GenerateError::Internal { reason: "a pass over the model broke".into() });
            }
        }
    }
}

fn accept(
    engine: &mut Engine,
    replies: &mut HashMap<SequenceId, ReplyState>,
    embeds: &mut VecDeque<Embed>,
    work: Work,
) {
    let (job, answer) = match work {
        Work::Reply(job, answer) => (*job, answer),
        Work::Embed(embed) if embeds.len() < MAX_WAITING_EMBEDDINGS => {
            return embeds.push_back(embed);
        }
        Work::Embed(embed) => {
            let _ = embed.answer.send(Err(GenerateError::Overloaded));
            return;
        }
    };
    let taken = match engine.submit(job.engine_request) {
        Ok(id) => {
            replies.insert(id, job.reply);
            Ok(())
        }
        Err(error) => Err(submit_error(&error)),
    };
    // The caller waits for this; if it is gone, its control will say so.
    let _ = answer.send(taken);
}

/// One pass for whoever has waited longest, who then goes behind the others.
fn embed(engine: &mut Engine, embeds: &mut VecDeque<Embed>) {
    embeds.retain(|embed| !embed.control.is_stopped());
    let Some(mut first) = embeds.pop_front() else { return };
    let passed = engine.embed(&mut first.jobs);
    let done = match passed {
        Ok(()) if first.jobs.iter().all(EmbeddingJob::is_done) => {
            Ok(first.jobs.iter().map(EmbeddingJob::vector).collect())
        }
        Ok(()) => return embeds.push_back(first),
        Err(failure) => Err(GenerateError::Internal { reason: failure.to_string() }),
    };
    // Whoever no longer waits needs no vector.
    let _ = first.answer.send(done);
}

fn dispatch(
    engine: &mut Engine,
    replies: &mut HashMap<SequenceId, ReplyState>,
    events: Vec<EngineEvent>,
) {
    for event in events {
        let id = event.id();
        let Some(reply) = replies.get_mut(&id) else { continue };
        if !reply.take(event) {
            reply.cancel();
            engine.cancel(id);
            replies.remove(&id);
        }
    }
}
