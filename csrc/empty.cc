namespace redraft {}
