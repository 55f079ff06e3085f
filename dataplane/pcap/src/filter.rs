//! tcpdump's filter language: compiled by libpcap for Ethernet, run on whole frames.

use std::fmt;

use pcap::{BpfProgram, Capture, Linktype};
use thiserror::Error;

/// A filter that libpcap does not compile.
#[derive(Debug, Error)]
#[error("the filter {text:?} is not understood: {why}")]
pub struct FilterError {
    text: String,
    why: String,
}

/// A compiled filter; the empty one takes everything.
pub struct Filter {
    text: String,
    program: Option<BpfProgram>,
}

impl Filter {
    /// Compiles a filter, such as `host 10.0.0.7 and tcp`.
    ///
    /// # Errors
    /// What libpcap says is wrong with it. Names of hosts are looked up, which may take a while.
    pub fn compile(text: &str) -> Result<Filter, FilterError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Filter { text: String::new(), program: None });
        }
        let dead = Capture::dead(Linktype::ETHERNET);
        let compiled = dead.and_then(|dead| dead.compile(text, true)).map_err(|e| {
            let why = match e {
                pcap::Error::PcapError(why) => why,
                other => other.to_string(),
            };
            FilterError { text: text.to_owned(), why }
        })?;
        Ok(Filter { text: text.to_owned(), program: Some(compiled) })
    }

    /// Whether a frame, from its Ethernet header on, passes. `frame` is all of it: a filter looks at
    /// lengths too.
    pub fn matches(&self, frame: &[u8]) -> bool {
        self.program.as_ref().is_none_or(|program| program.filter(frame))
    }

    /// The filter as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The program, one instruction after the other: code, jumps if true and if false, operand. Nothing
    /// where everything passes.
    pub fn instructions(&self) -> Vec<(u16, u8, u8, u32)> {
        let all = self.program.iter().flat_map(BpfProgram::get_instructions);
        // The fields are private; what they print as is not.
        let fields = |text: String| {
            let mut words = text.split(' ');
            let mut next = || words.next().and_then(|word| word.parse::<u32>().ok());
            let (code, jump_true, jump_false, operand) = (next()?, next()?, next()?, next()?);
            Some((code as u16, jump_true as u8, jump_false as u8, operand))
        };
        all.filter_map(|instruction| fields(instruction.to_string())).collect()
    }

    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        self.program.is_none()
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}
