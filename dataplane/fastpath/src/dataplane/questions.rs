//! What the clone's kernel asks of its neighbours: nobody else hears it.

use understudy_wire::neighbor::Solicitation;

use super::*;

/// Questions whose answers are awaited.
const OPEN_MAX: usize = 16;

/// Questions that nothing is known about yet: a node that has just joined has heard of no client. They are answered as
/// soon as it has, since the kernel asks again only after a second, and what it has to say waits.
pub(super) type OpenQuestions = ArrayVec<Solicitation, OPEN_MAX>;

impl<P: Ports> Dataplane<P> {
    pub(super) fn answer_clone(&mut self, question: &Solicitation, ports: &mut P) {
        let is_known = self.neighbors.mac(question.target).is_some();
        if is_known {
            self.answer(question, ports);
        } else if !self.open_questions.contains(question) {
            if self.open_questions.is_full() {
                self.open_questions.remove(0);
            }
            self.open_questions.push(*question);
        }
    }

    /// To be called in each poll.
    #[inline]
    pub(super) fn answer_open_questions(&mut self, ports: &mut P) {
        if !self.open_questions.is_empty() {
            for question in std::mem::take(&mut self.open_questions) {
                self.answer_clone(&question, ports);
            }
        }
    }

    fn answer(&mut self, question: &Solicitation, ports: &mut P) {
        let answer = self.neighbors.answer(question).and_then(|bytes| ports.alloc(&[&bytes]));
        if let Some(frame) = answer
            && self.host_out.push(ports, frame)
        {
            self.counters.neighbor_answers += 1;
        }
    }
}
