"""The machine as defined: what it is, what it says, what it computes, how long it takes, how it is built."""
