//! The thread that owns the engine.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rapport_engine::{Engine, EngineEvent, SequenceId};
use rapport_types::{Control, GenerateError};

use crate::reply::{Job, ReplyState, submit_error};

type Answer = Result<(), GenerateError>;

/// A handle to the engine's thread, which ends when this is dropped.
pub(crate) struct Driver {
    jobs: Option<Sender<(Job, Sender<Answer>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    pub(crate) fn start(engine: Engine) -> Self {
        let (jobs, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("rapport-engine".to_owned())
            .spawn(move || run(engine, &receiver))
            .expect("the system can start a thread");
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    /// Hands a reply over and waits for the engine to take or refuse it.
    pub(crate) fn submit(&self, job: Job) -> Result<Control, GenerateError> {
        let control = job.reply.control.clone();
        let (answer, taken) = channel();
        let jobs = self.jobs.as_ref().ok_or(GenerateError::EngineStopped)?;
        jobs.send((job, answer)).map_err(|_| GenerateError::EngineStopped)?;
        taken.recv().map_err(|_| GenerateError::EngineStopped)??;
        Ok(control)
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

fn run(mut engine: Engine, jobs: &Receiver<(Job, Sender<Answer>)>) {
    let mut replies: HashMap<SequenceId, ReplyState> = HashMap::new();
    let mut is_open = true;
    while is_open || !replies.is_empty() {
        if replies.is_empty() {
            match jobs.recv() {
                Ok(job) => accept(&mut engine, &mut replies, job),
                Err(_) => return,
            }
        }
        loop {
            match jobs.try_recv() {
                Ok(job) => accept(&mut engine, &mut replies, job),
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    is_open = false;
                    for reply in replies.values() {
                        reply.control.stop();
                    }
                    break;
                }
            }
        }
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
        if let Ok(events) = catch_unwind(AssertUnwindSafe(|| engine.step())) {
            dispatch(&mut engine, &mut replies, events);
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
    (job, answer): (Job, Sender<Answer>),
) {
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
