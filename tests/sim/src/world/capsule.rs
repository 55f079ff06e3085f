//! The capsules: frames to and from their kernels, timers, the application's end.

use super::*;

impl World {
    pub(super) fn kill_app(&mut self, id: NodeId) {
        let (now_ns, leaks) = (self.now_ns, self.has(Mutation::LeakedEnd));
        if let Some(life) = &mut self.machine(id).life {
            life.ready_at = None;
            life.ports.dying = !leaks;
            life.kernel.kill(now_ns);
        }
        self.after_kernel(id);
    }

    /// The application dies by itself.
    pub fn exit_app(&mut self, id: NodeId) {
        if let Some(life) = &mut self.machine(id).life {
            life.exited = true;
        }
        self.kill_app(id);
        self.hurry_wake(id);
    }

    pub(super) fn deliver_to_kernel(
        &mut self,
        id: NodeId,
        lives: u64,
        frames: Vec<SimFrame>,
        fed: u64,
    ) {
        for frame in frames {
            let wait = 2 * US + self.rng.below(10 * US);
            let now_ns = self.now_ns;
            let machine = self.machine(id);
            let wait = wait + machine.slow.capsule_ns;
            let Some(life) = &mut machine.life else { return };
            life.host_last[0] = (now_ns + wait).max(life.host_last[0]);
            let at = life.host_last[0];
            self.push(at, Event::ToKernel(id, lives, frame.bytes, fed));
        }
    }

    pub(super) fn on_kernel_frame(&mut self, id: NodeId, lives: u64, bytes: &[u8], fed: u64) {
        self.show(&format!("to kernel {id}"), bytes);
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        let current = machine.lives == lives;
        let Some(life) = machine.life.as_mut().filter(|_| current) else { return };
        if life.ready_at.is_some_and(|at| at <= now_ns) {
            life.kernel.listen();
        }
        life.kernel.on_frame(now_ns, bytes, fed, &mut life.ports.prepared);
        self.after_kernel(id);
    }

    pub(super) fn on_kernel_timer(&mut self, id: NodeId, lives: u64) {
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        let current = machine.lives == lives;
        let Some(life) = machine.life.as_mut().filter(|l| current && l.kernel_due <= now_ns) else {
            return;
        };
        life.kernel_due = u64::MAX;
        life.kernel.tick(now_ns);
        self.after_kernel(id);
    }

    fn after_kernel(&mut self, id: NodeId) {
        let now_ns = self.now_ns;
        let mut rng = self.rng.fork();
        let machine = self.machine(id);
        let (lives, slow_ns) = (machine.lives, machine.slow.capsule_ns);
        let Some(life) = &mut machine.life else { return };
        let garbled = life.kernel.garbled.take();
        let mut sent = Vec::new();
        while let Some(frame) = life.kernel.poll_out() {
            let wait = 2 * US + rng.below(10 * US) + slow_ns;
            life.host_last[1] = (now_ns + wait).max(life.host_last[1]);
            sent.push((life.host_last[1], frame));
        }
        let due = life.kernel.due_ns().unwrap_or(u64::MAX).max(now_ns + US);
        let sooner = due < life.kernel_due;
        if sooner {
            life.kernel_due = due;
        }
        if let Some(peer) = garbled {
            self.violate(format!("node {id}: its application got bytes {peer:?} never sent so"));
        }
        for (at, frame) in sent {
            self.push(at, Event::FromKernel(id, lives, frame));
        }
        if sooner {
            self.push(due, Event::Kernel(id, lives));
        }
    }
}
