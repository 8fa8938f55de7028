module paddock/tests/gotemplate

go 1.21
