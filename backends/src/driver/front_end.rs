//! A front-end that wants to be connected, and what it says.

use crate::Disconnect;
use crate::bell::Bell;
use pv_abi::DomId;
use std::str::FromStr;
use std::sync::Arc;

/// A front-end that wants to be connected.
pub struct FrontEnd<'a, H> {
    /// The host domain, which maps its pages and binds its port.
    pub host: Arc<H>,
    /// The domain that the front-end is in.
    pub domain: DomId,
    /// To be rung by its notifications.
    pub bell: Arc<Bell>,
    /// What it has published: the value of a node below its directory. It may say something else when asked again.
    pub nodes: &'a dyn Fn(&str) -> Option<String>,
}

impl<H> FrontEnd<'_, H> {
    /// A node's value, if it has that node.
    pub fn text(&self, name: &str) -> Option<String> {
        (self.nodes)(name)
    }

    /// A node's value, a decimal number, if it has that node.
    ///
    /// # Errors
    /// Where the value is no such number.
    pub fn number<N: FromStr>(&self, name: &str) -> Result<Option<N>, Disconnect> {
        let Some(text) = self.text(name) else { return Ok(None) };
        // `FromStr` takes a sign, which is no part of a number here.
        let number = text.parse().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()));
        let shown: String = text.chars().take(32).collect();
        let wrong =
            || Disconnect::Protocol(format!("its node {name} is {shown:?}, which is no number in range"));
        number.map(Some).ok_or_else(wrong)
    }

    /// As [`Self::number`], of a node that it must have.
    ///
    /// # Errors
    /// As there, and where it does not have that node.
    pub fn required_number<N: FromStr>(&self, name: &str) -> Result<N, Disconnect> {
        let missing = || Disconnect::Protocol(format!("it has no node {name}"));
        self.number(name)?.ok_or_else(missing)
    }

    /// Whether a node says 1.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| text == "1")
    }
}
